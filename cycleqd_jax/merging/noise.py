"""Gaussian noise of generations, generated again from its key whenever it is needed.

Gaussian mutation adds `Normal(0, std^2)` to every parameter of a child. The noise of
generation t is a function of the seed, t and the parameter. An individual therefore
stores one number g_t per generation (`Genome.noise`), and its weights are

    theta = theta_base + tau + sum_t g_t noise_t

Source: CycleQD (arXiv 2410.14735), the ablation of its mutation; this form is ours.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.merging.genome import Genome

# Lengths of noise vectors are multiples of this, so that few programs are compiled.
_BLOCK = 256
# Folded into the seed's key. No generation has this number, so no other draw of the
# search uses the resulting keys.
_DOMAIN = 0xFFFFFFFF


@dataclasses.dataclass(frozen=True)
class NoiseSource:
    """The keys and scales that determine the noise of all generations.

    Attributes:
      seed: of the search.
      std: standard deviation of a parameter's noise, in units of a weight.
    """

    seed: int
    std: float


def noise_length(generation: int) -> int:
    """N, the length of noise vectors when the last generation is `generation`."""
    return -(-max(generation, 1) // _BLOCK) * _BLOCK


def summed_noise(
    source: NoiseSource, genome: Genome, name_index: int, shape: tuple[int, ...]
) -> jax.Array:
    """`sum_t g_t noise_t` of one parameter, float32, added in order of t.

    Args:
      source: seed and standard deviation; the keys of all draws come from the seed.
      genome: one genome with noise `[N]`, on the host.
      name_index: the parameter's place among the sorted names of all parameters.
      shape: the parameter's shape.
    """
    shares = np.asarray(genome.noise)
    entries = np.flatnonzero(shares)
    # The number of entries is padded to a power of two, so that few programs are
    # compiled.
    length = 1 << max(len(entries) - 1, 0).bit_length()
    generations = np.zeros(length, np.int32)
    amounts = np.zeros(length, np.float32)
    generations[: len(entries)] = entries + 1
    amounts[: len(entries)] = shares[entries] * np.float32(source.std)
    domain = jax.random.fold_in(jax.random.key(source.seed), np.uint32(_DOMAIN))
    root = jax.random.fold_in(domain, name_index)
    return _sum(root, generations, amounts, np.int32(len(entries)), shape=shape)


@partial(jax.jit, static_argnames="shape")
def _sum(root, generations, amounts, count, *, shape) -> jax.Array:
    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        key = jax.random.fold_in(root, generations[i])
        return total + amounts[i] * jax.random.normal(key, shape, jnp.float32)

    return jax.lax.fori_loop(0, count, add, jnp.zeros(shape, jnp.float32))
