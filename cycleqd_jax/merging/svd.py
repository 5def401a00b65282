"""Thin singular value decompositions of task vectors, in float64 on the host."""

from typing import NamedTuple

import numpy as np

from cycleqd_jax.merging.task_vectors import Delta, FactoredDelta


class ThinSVD(NamedTuple):
    """`u @ diag(s) @ v.T`, the largest singular value first.

    Attributes:
      u: float64 `[out, r]`, orthonormal columns.
      s: float64 `[r]`, >= 0.
      v: float64 `[in, r]`, orthonormal columns.
    """

    u: np.ndarray
    s: np.ndarray
    v: np.ndarray


def own_rank(delta: Delta) -> int:
    """The number of components that write a matrix task vector exactly."""
    if isinstance(delta, FactoredDelta):
        (rows, inner), columns = delta.b.shape, delta.a.shape[1]
        return min(rows, inner, columns)
    return min(delta.array.shape)


def thin_svd(delta: Delta) -> ThinSVD:
    """Decomposes one matrix task vector at its own rank.

    A LoRA product is never written out: with `b = Q_b R_b` and `a.T = Q_a R_a` its
    decomposition is that of the small core `R_b R_a.T`, turned by `Q_b` and `Q_a`.

    Args:
      delta: a matrix task vector, `[out, in]`.

    Returns:
      The decomposition. Each component's sign is chosen so that the entry of its
      `u` column with the largest magnitude is positive.
    """
    if isinstance(delta, FactoredDelta):
        q_b, r_b = np.linalg.qr(delta.b)
        q_a, r_a = np.linalg.qr(delta.a.T)
        u, s, vt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
        u, v = q_b @ u, q_a @ vt.T
    else:
        u, s, vt = np.linalg.svd(delta.array, full_matrices=False)
        v = vt.T
    largest = np.abs(u).argmax(axis=0)
    signs = np.where(u[largest, np.arange(u.shape[1])] < 0, -1.0, 1.0)
    return ThinSVD(u * signs, s, v * signs)
