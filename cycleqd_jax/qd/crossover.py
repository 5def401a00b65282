"""Linear crossover: a weighted mean of two parents, one weight pair per child.

    theta_child = theta_base + (w1 tau_1 + w2 tau_2) / (w1 + w2),   w_i ~ N(mean, std^2)

Genomes are linear in task vectors, so the same mean of genomes is exact.

Source: CycleQD (arXiv 2410.14735), model merging as crossover.
"""

import jax
import jax.numpy as jnp
from qdax.custom_types import RNGKey

from cycleqd_jax.merging.genome import Genome


def linear_crossover(
    x1: Genome, x2: Genome, key: RNGKey, *, mean: float = 1.0, std: float = 0.03
) -> Genome:
    """Crosses two parents; `draw_weights`, then `mix_parents`.

    Args:
      x1: one genome, `[G]` and `[K]`.
      x2: the other parent.
      key: one typed key; consumed.
      mean: mean of a raw weight, dimensionless.
      std: its standard deviation; at most 0.2 of the mean, so that the sum of the
        weights stays away from 0. Weights may be negative.

    Returns:
      The child.
    """
    return mix_parents(x1, x2, draw_weights(key, mean=mean, std=std))


def draw_weights(key: RNGKey, *, mean: float, std: float) -> jax.Array:
    """The raw weights of one pair of parents, float32 `[2]`; consumes the key."""
    return mean + std * jax.random.normal(key, (2,))


def mix_parents(x1: Genome, x2: Genome, weights: jax.Array) -> Genome:
    """The weighted mean of two parents; deterministic.

    Written as `x1 + w2 / (w1 + w2) * (x2 - x1)`, which returns a parent that is
    crossed with itself bit for bit.

    Args:
      x1: one genome, or a batch `[P, G]` and `[P, K]`.
      x2: the same shapes.
      weights: raw weights `[2]` or `[P, 2]`; they need not sum to one.

    Raises:
      ValueError: the parents' shapes differ.
    """
    return jax.tree.map(jnp.add, x1, crossover_step(x1, x2, weights))


def crossover_step(x1: Genome, x2: Genome, weights: jax.Array) -> Genome:
    """What `mix_parents` adds to the first parent; same arguments and errors."""
    shapes = [tuple(leaf.shape for leaf in jax.tree.leaves(x)) for x in (x1, x2)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"x2: expected the shapes of x1, {shapes[0]}, but it has {shapes[1]}."
        )
    share = (weights[..., 1] / (weights[..., 0] + weights[..., 1]))[..., None]
    return jax.tree.map(lambda a, b: share * (b - a), x1, x2)
