"""Full fine-tuning with float32 master weights.

Each step casts the masters to the dtype of the computation, so that updates too small
for that dtype still add up.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.models.base import Deltas, Weights

Masters = dict[str, jax.Array]  # float32, by Hugging Face's name


@dataclasses.dataclass(frozen=True)
class Full:
    """Training of all weights; see `step.Method`.

    Attributes:
      dtype: name of the dtype of the computation.
    """

    dtype: str

    def model(self, params: Masters, weights: Weights) -> tuple[Weights, Deltas]:
        """The masters in the dtype of the computation; `weights` is not used."""
        del weights
        return {n: p.astype(self.dtype) for n, p in params.items()}, Deltas()


def init_masters(weights: Mapping[str, Any]) -> Masters:
    """Float32 copies on the device; training donates them."""
    return {name: jnp.array(w, jnp.float32) for name, w in weights.items()}


def to_numpy(masters: Masters, dtype: Any) -> dict[str, np.ndarray]:
    """The weights on the host, rounded to `dtype`."""
    return {name: np.asarray(p).astype(dtype) for name, p in masters.items()}
