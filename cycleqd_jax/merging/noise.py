"""Gaussian noise of generations, made again from its key whenever it is needed.

Gaussian mutation adds `Normal(0, std^2)` to every parameter of a child. The noise of
generation t is a function of the seed, t and the parameter, so an individual holds one
number per generation (`Genome.noise`), and the weights it stands for are

    theta = theta_base + tau + sum_t g_t noise_t

Source: CycleQD (arXiv 2410.14735), the ablation of its mutation; the form is ours.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.merging.genome import Genome

# Lengths of noise vectors are multiples of this, so that programs are compiled rarely.
BLOCK = 256
# Folded into the seed's key: no generation is that late, so no other draw shares it.
_DOMAIN = 0xFFFFFFFF


@dataclasses.dataclass(frozen=True)
class NoiseSource:
    """What noise is made from.

    Attributes:
      seed: of the search.
      std: standard deviation of a parameter's noise, in units of a weight.
    """

    seed: int
    std: float


def noise_length(generation: int) -> int:
    """How long noise vectors are once there are children up to `generation`."""
    return -(-max(generation, 1) // BLOCK) * BLOCK


def generation_noise(
    source: NoiseSource, generation: int, name_index: int, shape: tuple[int, ...]
) -> jax.Array:
    """The noise of one generation in one parameter, float32.

    Args:
      source: seed and size.
      generation: t, >= 1.
      name_index: the parameter's place among the sorted names of all parameters.
      shape: the parameter's.
    """
    key = jax.random.fold_in(_root(source, name_index), generation)
    return source.std * jax.random.normal(key, shape, jnp.float32)


def summed_noise(
    source: NoiseSource, genome: Genome, name_index: int, shape: tuple[int, ...]
) -> jax.Array:
    """`sum_t g_t noise_t` of one parameter, float32, in order of t.

    Arguments as for `generation_noise`; the genome is a single one, on the host.
    """
    shares = np.asarray(genome.noise)
    entries = np.flatnonzero(shares)
    # A power of two of entries, so that few programs are compiled.
    length = 1 << max(len(entries) - 1, 0).bit_length()
    generations = np.zeros(length, np.int32)
    amounts = np.zeros(length, np.float32)
    generations[: len(entries)] = entries + 1
    amounts[: len(entries)] = shares[entries] * np.float32(source.std)
    root = _root(source, name_index)
    return _sum(root, generations, amounts, np.int32(len(entries)), shape=shape)


def _root(source: NoiseSource, name_index: int) -> jax.Array:
    domain = jax.random.fold_in(jax.random.key(source.seed), np.uint32(_DOMAIN))
    return jax.random.fold_in(domain, name_index)


@partial(jax.jit, static_argnames="shape")
def _sum(root, generations, amounts, count, *, shape) -> jax.Array:
    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        key = jax.random.fold_in(root, generations[i])
        return total + amounts[i] * jax.random.normal(key, shape, jnp.float32)

    return jax.lax.fori_loop(0, count, add, jnp.zeros(shape, jnp.float32))
