"""LoRA: `W + (alpha / rank) B A`, where only the factors `A` and `B` are trained.

The model runs in the factored form that populations use; base weights do not change.

Source: LoRA (arXiv 2106.09685); initial values as PEFT's.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import (
    EMBEDDING,
    HEAD,
    CausalLM,
    Deltas,
    LowRank,
    Weights,
)
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.formats.peft_config import is_table
from cycleqd_jax.training.settings import LoraSettings

_WEIGHT = ".weight"
Factors = dict[str, dict[str, jax.Array]]  # name -> {"a": [r, in], "b": [out, r]}


@dataclasses.dataclass(frozen=True)
class Lora:
    """Training of factors with frozen weights; see `step.Method`.

    Attributes:
      scale: the factor of `B A`.
    """

    scale: float

    def model(self, params: Factors, weights: Weights) -> tuple[Weights, Deltas]:
        """The base weights and the low-rank additions."""
        return weights, as_deltas(params, self.scale)


def target_names(program: CausalLM, settings: LoraSettings) -> list[str]:
    """Sorted names of the adapted matrices.

    Raises:
      BadInputError: a target names no matrix of the model.
    """
    shapes = program.config.weight_shapes()
    # Biases and norms have one dimension and are not adapted; nor are tables.
    matrices = [
        name
        for name, shape in shapes.items()
        if len(shape) == 2
        and name.endswith(_WEIGHT)
        and name not in (EMBEDDING, HEAD)
        and not is_table(name.removesuffix(_WEIGHT))
    ]
    if settings.targets is None:
        return sorted(matrices)
    kinds = sorted({name.split(".")[-2] for name in matrices})
    for target in settings.targets:
        if target not in kinds:
            raise BadInputError(
                f"lora.targets has {target!r}, which names no linear layer of the "
                f"model; its layers are {', '.join(kinds)}."
            )
    return sorted(n for n in matrices if n.split(".")[-2] in settings.targets)


def init_factors(program: CausalLM, settings: LoraSettings, key: jax.Array) -> Factors:
    """Initial factors of all adapted matrices.

    `A ~ U(-1/sqrt(in), 1/sqrt(in))`, or `N(0, init_std^2)` if that is set; `B = 0`.

    Args:
      program: the model.
      settings: rank and targets.
      key: one typed key; consumed.

    Raises:
      BadInputError: a target names no matrix of the model.
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
    """The low-rank additions of `factors`, the same for all rows of a batch."""
    return Deltas(
        {
            name: LowRank(f["b"], f["a"].T, jnp.full((1, f["a"].shape[0]), scale))
            for name, f in factors.items()
        }
    )


def as_stored(factors: Factors, scale: float) -> dict[str, LoraFactor]:
    """The factors of each matrix, float32, on the host."""
    return {
        name: LoraFactor(
            np.asarray(f["b"], np.float32), np.asarray(f["a"], np.float32), scale
        )
        for name, f in factors.items()
    }
