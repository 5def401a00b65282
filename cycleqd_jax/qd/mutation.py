"""SVD mutation: a random part of the active task's expert, component by component.

Every matrix gets `U diag(w * s) V^T` added, where `U, s, V` is the SVD of the active
expert's task vector and `w ~ Uniform[0, w_max]` independently for each component. For a
genome this is `c += w * s` on the active expert's coefficients. Parameters other than
matrices do not mutate. A task without an expert mutates along those of all experts.

Source: CycleQD (arXiv 2410.14735), SVD-based mutation.
"""

import jax
import jax.numpy as jnp
from qdax.custom_types import RNGKey


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
