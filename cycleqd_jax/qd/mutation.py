"""SVD mutation: random steps along the singular directions of the experts.

`svd`, the paper's, adds a random part of the active task's expert.

Every matrix gets `U diag(w * s) V^T` added, where `U, s, V` is the SVD of the active
expert's task vector and `w ~ Uniform[0, w_max]` independently for each component. For a
genome this is `c += w * s` on the active expert's coefficients. Parameters other than
matrices do not mutate. A task without an expert mutates along those of all experts.

`svd_all` moves along the directions of all experts, in both senses:

    c += s * (e + m + d),   e ~ N(0, expert_std^2), m ~ N(0, matrix_std^2),
                            d ~ N(0, direction_std^2)

with one `e` per expert, one `m` per expert and matrix, and one `d` per direction.

Source: CycleQD (arXiv 2410.14735), SVD-based mutation; `svd_all` is ours.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from qdax.custom_types import RNGKey

from cycleqd_jax.merging.forms import MatrixSlot


def draw_steps(key: RNGKey, size: int, *, w_max: float) -> jax.Array:
    """Draws one step per coefficient, `w ~ Uniform[0, w_max]`.

    Args:
      key: one typed key; consumed.
      size: the number of steps. Coefficients of all experts get one; those of inactive
        experts are not used.
      w_max: largest step, as a share of a component's singular value, >= 0.

    Returns:
      Float32 `[size]`.
    """
    return jax.random.uniform(key, (size,), maxval=w_max)


def mutation_step(
    steps: jax.Array,
    *,
    active: jax.Array | int,
    singular_values: jax.Array,
    experts_of: jax.Array,
) -> jax.Array:
    """The change of the coefficients by mutation; deterministic.

    Args:
      steps: `w`, `[G]`.
      active: the active task's expert, 0-based, int32 `[]`; -1 stands for all experts.
      singular_values: `DiagonalBasis.singular_values`, `[G]`.
      experts_of: `DiagonalBasis.experts_of`, `[G]`.

    Returns:
      `[G]`: `w * s` for the active expert's coefficients, 0 for all others.
    """
    moves = (experts_of == active) | (jnp.asarray(active) < 0)
    return jnp.where(moves, steps * singular_values, 0.0)


def draw_all_steps(
    key: RNGKey, layout: Sequence[MatrixSlot], *, stds: tuple[float, float, float]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws the steps of `svd_all`; their sum is the step of each coefficient.

    Args:
      key: one typed key; consumed.
      layout: of the basis.
      stds: `expert_std`, `matrix_std` and `direction_std`.

    Returns:
      `e`, `m` and `d` of each coefficient, float32 `[G]`. They are not summed here: in
      one program with the draws, a sum may be rounded differently in other batches.
    """
    num_experts = layout[0].num_experts if layout else 0
    matrices = np.repeat(np.arange(len(layout)), [slot.size for slot in layout])
    owners = [np.repeat(np.arange(num_experts), slot.rank) for slot in layout]
    experts = np.concatenate([np.zeros(0, int), *owners])
    keys = jax.random.split(key, 3)
    by_expert = stds[0] * jax.random.normal(keys[0], (num_experts,))
    by_matrix = stds[1] * jax.random.normal(keys[1], (len(layout), num_experts))
    by_direction = stds[2] * jax.random.normal(keys[2], (experts.size,))
    return by_expert[experts], by_matrix[matrices, experts], by_direction
