"""Mutation along the child's own singular directions, for genomes in core form.

`U, s, V` is the SVD of the CHILD's own task vector of a matrix, after crossover, and
`w ~ Uniform[0, w_max]` independently for each component. The mutated task vector is

    svd_child:  tau + U diag(w * s) V^T
    svd_scale:        U diag(w * s) V^T

The child's task vector is `Q_u M Q_v^T` with orthonormal sides, so its singular vectors
are those of the small core M, multiplied by `Q_u` and `Q_v`. `svd_scale` is the paper's
formula taken literally. It shrinks the task vector to about w_max / 2, so the authors
probably did not run it.

Source: CycleQD (arXiv 2410.14735), SVD-based mutation; the core form is ours.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cycleqd_jax.merging.core_basis import CoreSlot

_HIGHEST = jax.lax.Precision.HIGHEST


def num_components(layout: Sequence[CoreSlot]) -> int:
    """The number of singular components of a child, summed over matrices."""
    return sum(min(slot.rows, slot.columns) for slot in layout)


def child_step(
    coefficients: jax.Array, steps: jax.Array, layout: Sequence[CoreSlot]
) -> jax.Array:
    """The core of `U diag(w * s) V^T` for every matrix; deterministic.

    Args:
      coefficients: of one genome in core form, `[G]`.
      steps: `w`, `[num_components(layout)]`, from `mutation.draw_steps`: matrix after
        matrix, and for each from the largest singular value to the smallest.
      layout: of the basis.

    Returns:
      `[G]`: `svd_child` adds it to the coefficients, `svd_scale` replaces them by it.
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
