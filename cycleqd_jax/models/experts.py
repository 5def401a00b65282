"""Experts: fine-tuned versions of one base model, as LoRA factors or whole weights."""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import re
from collections.abc import Callable, Mapping

import numpy as np

from cycleqd_jax import files
from cycleqd_jax.errors import RunError
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.formats.safetensors import StoredWeights, digest_of_array

_LARGE = 1 << 30  # bytes; fingerprints of smaller weights are not kept


@dataclasses.dataclass(frozen=True)
class LoraExpert:
    """An expert that changes matrices by low-rank sums.

    Attributes:
      factors: by weight name: `W + scale * b @ a`.
      replacements: float32 weights it replaces whole, by name; usually none.
    """

    factors: Mapping[str, LoraFactor]
    replacements: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of factors, scales and replaced weights."""
        arrays = dict(self.replacements)
        for name, factor in self.factors.items():
            arrays[f"{name} b"] = factor.b
            arrays[f"{name} a"] = factor.a
            arrays[f"{name} scale"] = np.asarray(factor.scale, np.float64)
        return weights_fingerprint(arrays)

    @property
    def sample(self) -> str:
        """As `FullExpert.sample`; here the fingerprint, as all of it is in memory."""
        return self.fingerprint

    identity = sample

    @property
    def is_known(self) -> bool:
        """As `FullExpert.is_known`."""
        return True

    is_settled = is_known

    def digesting(self) -> "LoraExpert":
        """As `FullExpert.digesting`."""
        return self


@dataclasses.dataclass(frozen=True)
class FullExpert:
    """An expert given as all its weights.

    Attributes:
      weights: by name, with exactly the base's names and shapes, in their stored
        dtypes. Those of a loaded expert are `StoredWeights`: every access reads the
        array from disk, so an expert of any size is used one tensor at a time.
    """

    weights: Mapping[str, np.ndarray]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) over the names and the digests of all arrays.

        Stored arrays that were read before are not read again for it; the others are,
        one at a time. That of large files is kept, as by `weights_fingerprint`.
        """
        return _once(self.weights, "digests", self._of_digests)

    @functools.cached_property
    def sample(self) -> str:
        """A hash that reads little; experts of other samples are other experts."""
        return sampled(self.weights)

    @property
    def is_known(self) -> bool:
        """True if its fingerprint needs no reading."""
        path = _kept_at(self.weights, "digests")
        is_kept = path is not None and _read(path) is not None
        return "fingerprint" in vars(self) or is_kept

    @property
    def identity(self) -> str:
        """A hash of its files, not of their content; the fingerprint without files."""
        stored = isinstance(self.weights, StoredWeights)
        own = self.weights.identity(settled=False) if stored else None
        return own or self.fingerprint

    @property
    def is_settled(self) -> bool:
        """True if every change of its files changes `identity`; see `StoredWeights`."""
        stored = isinstance(self.weights, StoredWeights)
        return not stored or self.weights.identity() is not None

    def digesting(self) -> "FullExpert":
        """The same, which hashes stored arrays when they are read for other ends.

        Files in a bucket are copied to the disk first.
        """
        if not isinstance(self.weights, StoredWeights):
            return self
        self.weights.copy_here()
        return FullExpert(self.weights.digesting())

    def _of_digests(self) -> str:
        stored = isinstance(self.weights, StoredWeights)
        one = self.weights.digest if stored else self._of_array
        return files.hash_arrays({}, {name: one(name) for name in sorted(self.weights)})

    def _of_array(self, name: str) -> str:
        return digest_of_array(np.asarray(self.weights[name]))


Expert = LoraExpert | FullExpert


def weights_fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """Sha256 (hex) over names, dtypes, shapes and bytes, in the order of names.

    One array is read at a time. Files of a gigabyte and more are read once: their
    fingerprint is kept in the user's cache until they change, and says too that all
    values in them are finite. Files in a bucket are copied to the disk first.
    """

    def compute() -> str:
        digest = hashlib.sha256()
        for name in sorted(weights):
            array = np.ascontiguousarray(weights[name])
            digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
            digest.update(array.reshape(-1).view(np.uint8))
        return digest.hexdigest()

    return _once(weights, "", compute)


def sampled(weights: Mapping[str, np.ndarray]) -> str:
    """Sha256 (hex) over names, shapes and the first and last row of every array.

    It tells models from each other that were trained differently, and reads little.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        stored = isinstance(weights, StoredWeights)
        shape = weights.outline(name)[0] if stored else weights[name].shape
        digest.update(f"{name} {tuple(shape)}\n".encode())
        for row in sorted({0, shape[0] - 1}) if shape else ():
            index = (slice(row, row + 1),)
            rows = weights.part(name, index) if stored else weights[name][index]
            digest.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _once(
    weights: Mapping[str, np.ndarray], kind: str, compute: Callable[[], str]
) -> str:
    """A fingerprint of weights: kept, or computed and, of large files, kept."""
    path = _kept_at(weights, kind)
    known = None if path is None else _read(path)
    if known is not None:
        return known
    if isinstance(weights, StoredWeights):
        weights.copy_here()
    found = compute()
    if path is not None:
        with contextlib.suppress(RunError):  # a full disk costs one more reading
            files.write_text(path, found)
    return found


def _kept_at(weights: Mapping[str, np.ndarray], kind: str) -> pathlib.Path | None:
    """The file that may hold a fingerprint of large files; None for other weights."""
    if not isinstance(weights, StoredWeights) or weights.nbytes < _LARGE:
        return None
    identity = weights.identity()
    folder = files.cache_folder("cycleqd_jax", "fingerprints", kind)
    return None if identity is None else folder / identity


def _read(path: pathlib.Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text("utf-8")
        if re.fullmatch("[0-9a-f]{64}", text):
            return text
    return None
