"""Mutation along the child's own singular directions, for genomes in core form.

With `U, s, V` the SVD of the CHILD's own task vector of a matrix, after crossover, and
`w ~ Uniform[0, w_max]` independently for each component:

    svd_child:  tau + U diag(w * s) V^T
    svd_scale:        U diag(w * s) V^T

The child's task vector is `Q_u M Q_v^T` with orthonormal sides, so its SVD is that of
the small core M, turned. `svd_scale` is the paper's formula read literally; it shrinks
the task vector to about w_max / 2, so it is unlikely to be what was run.

Source: CycleQD (arXiv 2410.14735), SVD-based mutation; the core form is ours.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cycleqd_jax.merging.core_basis import CoreSlot

_HIGHEST = jax.lax.Precision.HIGHEST


def num_components(layout: Sequence[CoreSlot]) -> int:
    """How many singular components a child has, all matrices together."""
    return sum(min(slot.rows, slot.columns) for slot in layout)


def child_step(
    coefficients: jax.Array, steps: jax.Array, layout: Sequence[CoreSlot]
) -> jax.Array:
    """`diag(w * s)` between the singular vectors of every core, `[G]`.

    Args:
      coefficients: of one genome in core form, `[G]`.
      steps: `w`, one per component, `[num_components(layout)]`: matrix after matrix, in
        each the largest singular value first. `mutation.draw_steps` draws them.
      layout: of the basis.

    Returns:
      What `svd_child` adds to the coefficients, and what `svd_scale` replaces them by.
    """
    # Matrices of one shape are decomposed in one call.
    by_shape: dict[tuple[int, int], list[tuple[int, CoreSlot]]] = {}
    place = 0
    for slot in layout:
        by_shape.setdefault((slot.rows, slot.columns), []).append((place, slot))
        place += min(slot.rows, slot.columns)
    out = jnp.zeros_like(coefficients)
    for (rows, columns), slots in by_shape.items():
        inner = min(rows, columns)
        cores = jnp.stack([_part(coefficients, s.offset, s.size) for _, s in slots])
        w = jnp.stack([_part(steps, place, inner) for place, _ in slots])
        u, s, vt = jnp.linalg.svd(cores.reshape(-1, rows, columns), full_matrices=False)
        moved = jnp.matmul(u * (w * s)[:, None, :], vt, precision=_HIGHEST)
        for row, (_, slot) in zip(moved, slots, strict=True):
            out = out.at[slot.offset : slot.offset + slot.size].set(row.ravel())
    return out


def _part(array: jax.Array, start: int, size: int) -> jax.Array:
    return array[start : start + size]
