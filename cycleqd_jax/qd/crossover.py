"""Crossover of two parents: linear, with one weight pair per child, free, or a blend.

Linear crossover is the weighted mean of both parents:

    theta_child = theta_base + (w1 tau_1 + w2 tau_2) / (w1 + w2),   w_i ~ N(mean, std^2)

Genomes are linear in task vectors, so the weighted mean of two genomes is exactly this.
It halves the skill of a parent that the other one lacks. Free crossover does not have
to: a task vector is a sum of parts, one per expert, and every part has its own share.

    tau_child = sum_e (1 - a_e) tau_1e + a_e tau_2e

Here `tau_ie` is what parent i has along the directions of expert e. In one half of the
children `a_e ~ Uniform[0, 1]`, independently; the other half are unions: they take each
part whole from the parent that has more of it, by its norm. So two experts have their
sum among their children, and a parent crossed with itself is its own child.

A blend draws nothing: `a_e = n_2e^8 / (n_1e^8 + n_2e^8)`, with the norms `n_ie` of the
parts. It takes a part nearly whole from the parent that has clearly more of it, and the
middle of parts of equal size, so no skill is weakened, and what parents of equal size
have learnt is averaged.

Source: CycleQD (arXiv 2410.14735), model merging as crossover; the others are ours.
"""

from typing import NamedTuple

import jax
import numpy as np
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


# Of norms, in a blend: if parts differ by a third, the larger one is 91 % of the child.
BLEND_POWER = 8


class FreeDraw(NamedTuple):
    """The random part of free crossover.

    Attributes:
      is_union: bool `[]`, True with probability 1/2.
      shares: float32 `[E]`, uniform in [0, 1]; those of a child that is no union.
    """

    is_union: jax.Array
    shares: jax.Array


def draw_free(key: RNGKey, num_experts: int) -> FreeDraw:
    """Draws for one pair of parents; consumes the key."""
    coin, shares = jax.random.split(key)
    return FreeDraw(
        jax.random.bernoulli(coin), jax.random.uniform(shares, (num_experts,))
    )


def free_shares(
    x1: Genome, x2: Genome, draw: FreeDraw, experts_of: np.ndarray
) -> np.ndarray:
    """The second parent's share of each expert's part; deterministic, on the host.

    Args:
      x1: one genome, `[G]` and `[E]`.
      x2: the other parent.
      draw: from `draw_free`.
      experts_of: `DiagonalBasis.experts_of`, `[G]`.

    Returns:
      Float32 `[E]`. In a union 1 where the second parent's part is larger, else 0;
      parts of equal norm go by the size of their scales.
    """
    if not draw.is_union:
        return np.asarray(draw.shares, np.float32)
    sizes = [_squares(x, experts_of) for x in (x1, x2)]
    scales = np.abs(x1.scales) < np.abs(x2.scales)
    larger = (sizes[0] < sizes[1]) | ((sizes[0] == sizes[1]) & scales)
    return larger.astype(np.float32)


def blend_shares(x1: Genome, x2: Genome, experts_of: np.ndarray) -> np.ndarray:
    """The second parent's share of each expert's part in a blend; deterministic.

    Args:
      x1: one genome, `[G]` and `[E]`.
      x2: the other parent.
      experts_of: `DiagonalBasis.experts_of`, `[G]`.

    Returns:
      Float32 `[E]`. For an expert without directions the scales are its size; 0 where
      neither parent has a part.
    """
    sizes = [np.sqrt(_squares(x, experts_of)) for x in (x1, x2)]
    nothing = sizes[0] + sizes[1] == 0
    one, two = (
        np.where(nothing, np.abs(x.scales), size)
        for x, size in zip((x1, x2), sizes, strict=True)
    )
    largest = np.maximum(one, two)
    one, two = (
        np.divide(size, largest, out=np.zeros_like(size), where=largest > 0)
        ** BLEND_POWER
        for size in (one, two)
    )
    both = one + two
    return np.divide(two, both, out=np.zeros_like(both), where=both > 0).astype(
        np.float32
    )


def _squares(x: Genome, experts_of: np.ndarray) -> np.ndarray:
    """The squared norm of each expert's part, float64 `[E]`."""
    squares = np.square(x.coefficients, dtype=np.float64)
    return np.bincount(experts_of, squares, len(x.scales))


def free_step(
    x1: Genome, x2: Genome, shares: jax.Array, experts_of: jax.Array
) -> Genome:
    """The change of the first parent by a share per expert, `a_e (x2 - x1)`.

    Deterministic. It is 0 for equal parents.

    Args:
      x1: a batch of genomes, `[P, G]` and `[P, E]`.
      x2: the other parents; the same shapes.
      shares: `[P, E]`, from `free_shares` or `blend_shares`.
      experts_of: `DiagonalBasis.experts_of`, `[G]`.
    """
    return x1.replace(
        coefficients=shares[:, experts_of] * (x2.coefficients - x1.coefficients),
        scales=shares * (x2.scales - x1.scales),
    )
