"""LoRA: what is trained, and what it adds to the base.

Only the factors are trained: `W + (alpha / rank) B A`, run in the same factored form
that populations use, so the base weights are read and never changed.

Source: LoRA (arXiv 2106.09685); initial values as PEFT's.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import CausalLM, Deltas, LowRank, Weights

Factors = dict[str, dict[str, jax.Array]]  # name -> {"a": [r, in], "b": [out, r]}


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """The shape of an adapter, as PEFT names it; the scale is `alpha / rank`.

    Attributes:
      rank: of each adapted matrix.
      alpha: dimensionless.
      targets: names of linear layers.
      init_std: of A's normal initial values; None draws them as PEFT does.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    init_std: float | None = None

    @property
    def scale(self) -> float:
        """What `B A` is multiplied by."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class Lora:
    """Training of factors beside weights that stay; see `step.Method`.

    Attributes:
      scale: what `B A` is multiplied by.
    """

    scale: float

    def model(self, params: Factors, weights: Weights) -> tuple[Weights, Deltas]:
        """The base weights, and what the factors add to them."""
        return weights, as_deltas(params, self.scale)


def target_names(program: CausalLM, settings: LoraSettings) -> list[str]:
    """Sorted names of the matrices that are adapted.

    Raises:
      BadInputError: if a target names no matrix of the model.
    """
    shapes = program.config.weight_shapes()
    names = []
    for target in settings.targets:
        # A linear layer may have a bias too, which is not adapted.
        found = [
            name
            for name, shape in shapes.items()
            if name.split(".")[-2] == target and len(shape) == 2
        ]
        if not found:
            raise BadInputError(
                f"lora.targets has {target!r}, which names no linear layer of the "
                "model; use names like q_proj or down_proj."
            )
        names.extend(found)
    return sorted(names)


def init_factors(program: CausalLM, settings: LoraSettings, key: jax.Array) -> Factors:
    """Factors of every targeted matrix; `B = 0`.

    `A ~ U(-1/sqrt(in), 1/sqrt(in))`, or `N(0, init_std^2)` where that is set.

    Args:
      program: the model.
      settings: rank and targets.
      key: one typed key; consumed.

    Raises:
      BadInputError: if a target names no matrix of the model.
    """
    shapes = program.config.weight_shapes()
    names = target_names(program, settings)
    factors = {}
    for name, subkey in zip(names, jax.random.split(key, len(names)), strict=True):
        out, fan_in = shapes[name]
        shape, bound = (settings.rank, fan_in), fan_in**-0.5
        if settings.init_std is None:
            a = jax.random.uniform(subkey, shape, minval=-bound, maxval=bound)
        else:
            a = settings.init_std * jax.random.normal(subkey, shape)
        factors[name] = {"a": a, "b": jnp.zeros((out, settings.rank))}
    return factors


def as_deltas(factors: Factors, scale: float) -> Deltas:
    """The additions that `factors` make, alike for all rows of a batch."""
    return Deltas(
        {
            name: LowRank(f["b"], f["a"].T, jnp.full((1, f["a"].shape[0]), scale))
            for name, f in factors.items()
        }
    )


def to_numpy(factors: Factors) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(b `[out, r]`, a `[r, in]`) of each matrix, float32, on the host."""
    return {
        name: (np.asarray(f["b"], np.float32), np.asarray(f["a"], np.float32))
        for name, f in factors.items()
    }
