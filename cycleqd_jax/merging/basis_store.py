"""The basis on disk: one safetensors file in the run folder, one in the user's cache.

Equal content gives equal bytes. A stored basis is never computed again on another
machine, because LAPACK's results differ between machines; its fingerprint says what it
was made from. The basis of full fine-tunes takes minutes to hours to compute, so other
runs of the same experts find it in the cache by that fingerprint. Where the cache
cannot be read or written, the run computes the basis and goes on.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.merging.core_basis import CoreBasis, CoreSlot
from cycleqd_jax.merging.forms import Basis, DiagonalBasis, MatrixSlot
from cycleqd_jax.merging.settings import BasisSettings

_LOG = logging.getLogger(__name__)
_FORMAT = "cycleqd_jax/basis/3"
# Exceptions that reading a damaged file can raise.
_DAMAGE = (
    safetensors.SafetensorError,
    AttributeError,
    KeyError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
_GROUPS = ("u", "v", "deltas", "residuals")
# form -> (class, class of its slots, names of its arrays)
_FORMS = {
    "diagonal": (
        DiagonalBasis,
        MatrixSlot,
        ("singular_values", "experts_of", "energy", "energy_kept", "similarity"),
    ),
    "core": (CoreBasis, CoreSlot, ("experts", "energy", "energy_kept", "similarity")),
}


class StoredBasis(NamedTuple):
    """A basis that was read from a file.

    Attributes:
      basis: the basis.
      fingerprint: of the inputs and settings it was made from.
    """

    basis: Basis
    fingerprint: str


def basis_fingerprint(
    base: str,
    experts: Mapping[str, str],
    settings: BasisSettings,
    form: str = "diagonal",
    inputs: str | None = None,
    dtype: str = "float32",
) -> str:
    """Hash of everything that a basis depends on: inputs and settings, not results.

    Args:
      base: fingerprint of the base model as loaded.
      experts: name -> fingerprint of its weights, of K experts in archive order.
      settings: of the basis.
      form: "diagonal" for a `DiagonalBasis`, "core" for a `CoreBasis`.
      inputs: fingerprint of the inputs that condition it, if there are any.
      dtype: of its directions.

    Returns:
      64 hexadecimal digits.
    """
    facts = {
        "format": _FORMAT,
        "base": base,
        "experts": list(experts.items()),
        "settings": settings.model_dump(mode="json", exclude={"keep", "host_below"}),
        "form": form,
        "inputs": inputs,
    }
    # Left out where they are as they always were, so that older bases are found.
    if dtype != "float32":
        facts["dtype"] = dtype
    if settings.host_below != type(settings).model_fields["host_below"].default:
        facts["host_below"] = settings.host_below
    if settings.conditioning == "data_free":
        facts["data_free"] = 2  # bases of version 1 had conditioned embeddings
    return files.hash_arrays({}, facts)


def save_basis(path: str | os.PathLike, basis: Basis, *, fingerprint: str) -> None:
    """Writes a basis, replacing the file in one step.

    Args:
      path: the file.
      basis: the basis.
      fingerprint: from `basis_fingerprint`.

    Raises:
      RunError: the disk is full or not writable.
    """
    form = "core" if isinstance(basis, CoreBasis) else "diagonal"
    arrays = {name: getattr(basis, name) for name in _FORMS[form][2]}
    for group in _GROUPS:
        for name, array in getattr(basis, group).items():
            arrays[f"{group}/{name}"] = array
    header = {
        "format": _FORMAT,
        "form": form,
        "fingerprint": fingerprint,
        "expert_names": list(basis.expert_names),
        "layout": [dataclasses.asdict(slot) for slot in basis.layout],
    }
    # safetensors has no checksum, so a flipped bit would be read as another basis.
    header["sha256"] = files.hash_arrays(arrays, header)

    def write(partial: Path) -> None:
        try:
            safetensors.numpy.save_file(
                {name: np.ascontiguousarray(array) for name, array in arrays.items()},
                partial,
                # safetensors writes several entries in random order, so there is one.
                metadata={"cycleqd_jax": json.dumps(header, sort_keys=True)},
            )
        except safetensors.SafetensorError as err:
            raise OSError(str(err)) from err

    files.write_atomically(Path(path), write)


def stored_fingerprint(path: str | os.PathLike) -> str:
    """The fingerprint in a basis file; its arrays are not read.

    Raises:
      BadInputError: the file is damaged or of another kind.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return json.loads((file.metadata() or {})["cycleqd_jax"])["fingerprint"]
    except _DAMAGE as err:
        raise _damaged(Path(path), err) from err


def load_basis(path: str | os.PathLike) -> StoredBasis:
    """Reads a basis that `save_basis` wrote.

    Raises:
      BadInputError: there is no such file, or it is damaged, of another kind or of
        another format.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInputError(f"basis: there is no file {path}.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["cycleqd_jax"])
            arrays = {name: jnp.asarray(file.get_tensor(name)) for name in file.keys()}
        if header["format"] != _FORMAT:
            raise BadInputError(
                f"basis: {path} has format {header['format']!r}, but this version "
                f"reads {_FORMAT!r}; delete the file to have it made again."
            )
        kind, slot_kind, names = _FORMS[header["form"]]
        basis = kind(
            **{name: arrays[name] for name in names},
            **{group: _group(arrays, group) for group in _GROUPS},
            layout=tuple(slot_kind(**slot) for slot in header["layout"]),
            expert_names=tuple(header["expert_names"]),
        )
        if header.pop("sha256") != files.hash_arrays(arrays, header):
            raise ValueError("its content does not have the checksum in it")
    except BadInputError:
        raise
    except _DAMAGE as err:
        raise _damaged(path, err) from err
    return StoredBasis(basis, header["fingerprint"])


def kept_path(fingerprint: str) -> Path:
    """The path of a basis in the user's cache; it need not exist.

    `$XDG_CACHE_HOME/cycleqd_jax/bases/<fingerprint>.safetensors`, by default in
    `~/.cache`.
    """
    return files.cache_folder("cycleqd_jax", "bases") / f"{fingerprint}.safetensors"


def obtain_basis(
    fingerprint: str,
    compute: Callable[[], Basis],
    *,
    file: Path | None = None,
    keep: bool = True,
) -> Basis:
    """The basis of a fingerprint: from a file, else from the cache, else computed.

    Args:
      fingerprint: from `basis_fingerprint`.
      compute: makes the basis; called only where it is stored nowhere.
      file: of the run folder, if there is one. A basis of another fingerprint in it is
        passed over.
      keep: whether the user's cache is read, and written after a computation.

    Raises:
      BadInputError: the file is damaged or of another format, or `compute` raises it.
    """
    if file is not None and file.is_file():
        stored = load_basis(file)
        if stored.fingerprint == fingerprint:
            return stored.basis
    basis = _find_kept(fingerprint) if keep else None
    if basis is None:
        basis = compute()
        if keep:
            _keep(basis, fingerprint)
    return basis


def store_basis(file: Path, basis: Basis, *, fingerprint: str) -> None:
    """Writes the basis into a run folder, unless it is there.

    It is written from memory, not linked to or copied from the file in the cache:
    damage to one file must not damage the other.

    Args:
      file: the file.
      basis: the basis.
      fingerprint: from `basis_fingerprint`.

    Raises:
      BadInputError: there is a damaged file.
      RunError: the disk is full or not writable.
    """
    if file.is_file() and stored_fingerprint(file) == fingerprint:
        return
    save_basis(file, basis, fingerprint=fingerprint)


def _find_kept(fingerprint: str) -> Basis | None:
    path = kept_path(fingerprint)
    if not path.is_file():
        return None
    try:
        stored = load_basis(path)
    except BadInputError as err:  # computing it again is slow, but not an error
        _LOG.warning("The kept basis is computed again: %s", err)
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return stored.basis if stored.fingerprint == fingerprint else None


def _keep(basis: Basis, fingerprint: str) -> None:
    """Writes a basis to the cache if that takes at most half of the free disk space."""
    path = kept_path(fingerprint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(basis))
        if size > shutil.disk_usage(path.parent).free // 2:
            _LOG.warning("The basis is not kept: %s has no room for it.", path.parent)
            return
        save_basis(path, basis, fingerprint=fingerprint)
    except OSError as err:
        _LOG.warning("The basis is not kept in %s: %s.", path.parent, err.strerror)
    except RunError as err:
        _LOG.warning("The basis is not kept: %s", err)


def _group(arrays: dict[str, Any], group: str) -> dict[str, Any]:
    prefix = f"{group}/"
    return {
        n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)
    }


def _damaged(path: Path, err: Exception) -> BadInputError:
    return BadInputError(
        f"basis: {path} is not a basis file of this library or is damaged ({err}); "
        "delete it to have it made again."
    )
