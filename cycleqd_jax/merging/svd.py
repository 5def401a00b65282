"""Singular value decompositions of small task vectors, in float64 on the host."""

from typing import Literal, NamedTuple

import numpy as np

from cycleqd_jax.merging.task_vectors import DenseDelta, FactoredDelta


class TruncatedSVD(NamedTuple):
    """`u @ diag(values[:r]) @ v.T`, the largest singular value first.

    One element of a `device_svd.BatchSVD` has the same fields.

    Attributes:
      u: float32 `[out, r]`, orthonormal columns.
      v: float32 `[in, r]`, orthonormal columns.
      values: float64, >= 0, all singular values, also those beyond r.
      rest: float32 `[out, in]`, the sum of the components beyond r; None where there
        are none or they were dropped.
    """

    u: np.ndarray
    v: np.ndarray
    values: np.ndarray
    rest: np.ndarray | None


def truncated_svd(
    delta: FactoredDelta | DenseDelta, rank: int | Literal["full"], *, keep_rest: bool
) -> TruncatedSVD:
    """Decomposes one matrix task vector.

    A LoRA product `b @ a` is not computed: with `b = Q_b R_b` and `a.T = Q_a R_a`, its
    singular vectors are those of the small core `R_b R_a.T`, multiplied by `Q_b` and
    `Q_a`. The sign of each component is chosen so that the entry of its `u` column with
    the largest magnitude is positive.

    Args:
      delta: a matrix task vector, `[out, in]`.
      rank: r, or "full": the smallest dimension of the matrix or of its factors, which
        is exact.
      keep_rest: whether the components beyond r are kept as a dense matrix.
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
    u, v = u * signs, v * signs
    keep = s.size if rank == "full" else min(rank, s.size)
    rest = None
    if keep_rest and keep < s.size and s.any():
        rest = ((u[:, keep:] * s[keep:]) @ v[:, keep:].T).astype(np.float32)
    first = (side[:, :keep].astype(np.float32) for side in (u, v))
    return TruncatedSVD(*first, s, rest)
