"""Experts: fine-tuned versions of one base model, as LoRA factors or whole weights."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping

import numpy as np

from cycleqd_jax.models.formats.peft import LoraFactor


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
        """Sha256 (hex) of the weights."""
        return weights_fingerprint(self.weights)


Expert = LoraExpert | FullExpert


def weights_fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """Sha256 (hex) over names, dtypes, shapes and bytes, in the order of names.

    One array is read at a time.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
