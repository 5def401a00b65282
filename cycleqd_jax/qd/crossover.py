"""Linear crossover: the weighted mean of two parents, with one weight pair per child.

    theta_child = theta_base + (w1 tau_1 + w2 tau_2) / (w1 + w2),   w_i ~ N(mean, std^2)

Genomes are linear in task vectors, so the weighted mean of two genomes is exactly this.

Source: CycleQD (arXiv 2410.14735), model merging as crossover.
"""

import jax
from qdax.custom_types import RNGKey

from cycleqd_jax.merging.genome import Genome


def draw_weights(key: RNGKey, *, mean: float, std: float) -> jax.Array:
    """Draws the raw weights of one pair of parents.

    Args:
      key: one typed key; consumed.
      mean: mean of a weight; dimensionless.
      std: its standard deviation; at most 0.2 of the mean, so that the sum of two
        weights is never near 0. A weight may be negative.

    Returns:
      Float32 `[2]`.
    """
    return mean + std * jax.random.normal(key, (2,))


def crossover_step(x1: Genome, x2: Genome, weights: jax.Array) -> Genome:
    """The change of the first parent by crossover: `w2 / (w1 + w2) * (x2 - x1)`.

    Deterministic. It is 0 for equal parents, so a parent that is crossed with itself
    is returned bit for bit.

    Args:
      x1: one genome, `[G]` and `[K]`, or a batch, `[P, G]` and `[P, K]`.
      x2: the other parent; the same shapes.
      weights: raw weights of both, `[2]` or `[P, 2]`; they need not sum to one.

    Raises:
      ValueError: the parents' shapes differ.
    """
    shapes = [tuple(leaf.shape for leaf in jax.tree.leaves(x)) for x in (x1, x2)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"x2: expected the shapes of x1, {shapes[0]}, but it has {shapes[1]}."
        )
    share = (weights[..., 1] / (weights[..., 0] + weights[..., 1]))[..., None]
    return jax.tree.map(lambda a, b: share * (b - a), x1, x2)
