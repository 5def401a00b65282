"""The basis on disk: one safetensors file.

Equal content gives equal bytes. A stored basis is never computed again on another
machine, because LAPACK's results differ between machines; its fingerprint says what it
was made from.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.core_basis import CoreBasis, CoreSlot
from cycleqd_jax.merging.forms import Basis, DiagonalBasis, MatrixSlot
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.models.formats.tensor_file import (
    StoredArray,
    TensorFile,
    write_tensors,
)

Placement = Callable[[str, str, np.ndarray], jax.Array]  # group, name, array
_LOG = logging.getLogger(__name__)
_FORMAT = "cycleqd_jax/basis/3"
# Exceptions that reading a damaged file can raise.
_DAMAGE = (
    AttributeError,
    BadInputError,
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

    # One entry: their order in the file would be that of the dictionary.
    metadata = {"cycleqd_jax": json.dumps(header, sort_keys=True)}
    files.write_atomically(
        Path(path), lambda partial: write_tensors(partial, arrays, metadata)
    )


def stored_fingerprint(path: str | os.PathLike) -> str:
    """The fingerprint in a basis file; its arrays are not read.

    Raises:
      BadInputError: the file is damaged or of another kind.
    """
    try:
        return json.loads(TensorFile(path).metadata["cycleqd_jax"])["fingerprint"]
    except _DAMAGE as err:
        raise _damaged(Path(path), err) from err


def on_first_device(group: str, name: str, array: np.ndarray) -> jax.Array:
    """The `Placement` without a mesh."""
    return jnp.asarray(array)


def on_host(group: str, name: str, array: np.ndarray) -> jax.Array | np.ndarray:
    """The `Placement` that leaves large arrays on the host."""
    return array if group in ("u", "v", "residuals") else jnp.asarray(array)


def load_basis(
    path: str | os.PathLike, place: Placement = on_first_device
) -> StoredBasis:
    """Reads a basis that `save_basis` wrote.

    One array at a time is on the host, where its checksum is made.

    Args:
      path: the file.
      place: puts an array on devices, from its group ("u", "v", "deltas", "residuals",
        or "" for others), its name and itself; by default on the first one.

    Raises:
      BadInputError: there is no such file, or it is damaged, of another kind or of
        another format.
    """
    file, header = _open(Path(path))
    reading = _Placing(file, place)
    try:
        if header.pop("sha256") != files.hash_arrays(reading, header):
            raise ValueError("its content does not have the checksum in it")
    except _DAMAGE as err:
        raise _damaged(Path(path), err) from err
    return StoredBasis(
        _build(Path(path), header, reading.placed), header["fingerprint"]
    )


def check_basis(path: str | os.PathLike) -> None:
    """Reads a basis for its checksum and keeps nothing; errors as for `load_basis`."""
    load_basis(path, lambda group, name, array: None)


def open_basis(path: str | os.PathLike) -> Basis:
    """A basis whose arrays are `StoredArray`s, read when they are used, unchecked.

    Raises:
      BadInputError: as for `load_basis`, except for the content.
    """
    file, header = _open(Path(path))
    return _build(Path(path), header, {name: StoredArray(file, name) for name in file})


def _open(path: Path) -> tuple[TensorFile, dict[str, Any]]:
    """The file and its header, of this version's format."""
    if not path.is_file():
        raise BadInputError(f"basis: there is no file {path}.")
    try:
        file = TensorFile(path)
        header = json.loads(file.metadata["cycleqd_jax"])
        found = header["format"]
    except _DAMAGE as err:
        raise _damaged(path, err) from err
    if found != _FORMAT:
        raise BadInputError(
            f"basis: {path} has format {found!r}, but this version reads {_FORMAT!r}; "
            "delete the file to have it made again."
        )
    return file, header


def _build(path: Path, header: Mapping[str, Any], arrays: dict[str, Any]) -> Basis:
    try:
        kind, slot_kind, names = _FORMS[header["form"]]
        return kind(
            **{name: arrays[name] for name in names},
            **{group: _group(arrays, group) for group in _GROUPS},
            layout=tuple(slot_kind(**slot) for slot in header["layout"]),
            expert_names=tuple(header["expert_names"]),
        )
    except _DAMAGE as err:
        raise _damaged(path, err) from err


class _Placing(Mapping[str, np.ndarray]):
    """Arrays of a file, each placed on devices when it is read."""

    def __init__(self, file: TensorFile, place: Placement):
        self.file, self.placed = file, {}
        self._place = place

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.file[name]
        group, slash, short = name.partition("/")
        group, short = (group, short) if slash else ("", name)
        self.placed[name] = self._place(group, short, array)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.file)

    def __len__(self) -> int:
        return len(self.file)


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
