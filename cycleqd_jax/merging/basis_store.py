"""The basis on disk: one safetensors file, equal bytes for equal content.

A stored basis is never computed again on another machine (LAPACK differs); its
fingerprint says what it was made from.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.merging.basis import Basis, MatrixSlot, Rank
from cycleqd_jax.merging.core_basis import AnyBasis, CoreBasis, CoreSlot
from cycleqd_jax.merging.fingerprint import hash_arrays
from cycleqd_jax.merging.task_vectors import Weights, whole_weights

_FORMAT = "cycleqd_jax/basis/3"
# What reading a damaged file was seen to raise.
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
        Basis,
        MatrixSlot,
        ("singular_values", "experts_of", "energy", "energy_kept", "similarity"),
    ),
    "core": (CoreBasis, CoreSlot, ("experts", "energy", "energy_kept", "similarity")),
}


class StoredBasis(NamedTuple):
    """A basis read from a file.

    Attributes:
      basis: the basis.
      fingerprint: of the inputs and settings it was made from.
      settings: what `save_basis` was given.
    """

    basis: AnyBasis
    fingerprint: str
    settings: dict[str, Any]


def basis_fingerprint(
    base_weights: Weights,
    experts: Sequence[Any],
    expert_names: Sequence[str],
    *,
    rank: Rank,
    residual: str = "drop",
    conditioning: str = "none",
    form: str = "diagonal",
) -> str:
    """Fingerprint of everything a basis depends on: inputs and settings, not results.

    Args:
      base_weights: name -> array.
      experts: as for `compute_basis`.
      expert_names: K names.
      rank: see `compute_basis`.
      residual: see `compute_basis`.
      conditioning: the step between task vectors and basis; "none".
      form: "diagonal" for a `Basis`, "core" for a `CoreBasis`.

    Returns:
      64 hexadecimal digits.
    """
    arrays = {f"base/{name}": array for name, array in base_weights.items()}
    for k, expert in enumerate(experts):
        for name, factor in (getattr(expert, "factors", None) or {}).items():
            arrays[f"expert/{k}/{name}/b"] = factor.b
            arrays[f"expert/{k}/{name}/a"] = factor.a
            arrays[f"expert/{k}/{name}/scale"] = np.float64(factor.scale)
        for name, array in whole_weights(expert).items():
            arrays[f"expert/{k}/{name}"] = array
    settings = {
        "format": _FORMAT,
        "experts": list(expert_names),
        "rank": rank,
        "residual": residual,
        "conditioning": conditioning,
        "form": form,
    }
    return hash_arrays(arrays, settings)


def save_basis(
    path: str | os.PathLike,
    basis: AnyBasis,
    *,
    fingerprint: str,
    settings: dict[str, Any] | None = None,
) -> None:
    """Writes a basis, replacing the file in one step.

    Args:
      path: the file; its folder must exist.
      basis: the basis.
      fingerprint: from `basis_fingerprint`.
      settings: anything JSON can write, kept for readers (rank, conditioning).

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
        "settings": settings or {},
        "expert_names": list(basis.expert_names),
        "layout": [dataclasses.asdict(slot) for slot in basis.layout],
    }
    # safetensors has no checksum, and a flipped bit would read as another basis.
    header["sha256"] = hash_arrays(arrays, header)
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            partial,
            # One metadata entry only: safetensors writes several in random order.
            metadata={"cycleqd_jax": json.dumps(header, sort_keys=True)},
        )
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (safetensors.SafetensorError, OSError) as err:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise RunError(
            f"{path} cannot be written ({err}); make room on that disk, or make it "
            "writable."
        ) from err


def stored_fingerprint(path: str | os.PathLike) -> str:
    """The fingerprint in a basis file, read without its arrays.

    Raises:
      BadInputError: the file is damaged or of another kind.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return json.loads((file.metadata() or {})["cycleqd_jax"])["fingerprint"]
    except _DAMAGE as err:
        raise _damaged(Path(path), err) from err


def load_basis(path: str | os.PathLike) -> StoredBasis:
    """Reads a basis written by `save_basis`.

    Raises:
      BadInputError: there is no such file, or it is damaged or of another kind.
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
                f"basis: {path} has format {header['format']!r}, expected {_FORMAT!r}; "
                "it was written by another version."
            )
        kind, slot_kind, names = _FORMS[header["form"]]
        basis = kind(
            **{name: arrays[name] for name in names},
            **{group: _group(arrays, group) for group in _GROUPS},
            layout=tuple(slot_kind(**slot) for slot in header["layout"]),
            expert_names=tuple(header["expert_names"]),
        )
        if header.pop("sha256") != hash_arrays(arrays, header):
            raise ValueError("its content does not have the checksum in it")
    except BadInputError:
        raise
    except _DAMAGE as err:
        raise _damaged(path, err) from err
    return StoredBasis(basis, header["fingerprint"], header["settings"])


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
