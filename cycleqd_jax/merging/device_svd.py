"""Singular value decompositions of large dense task vectors, on the accelerator.

Both methods take a batch of matrices of one shape, such as one kind of matrix of
several layers, in float32; programs are compiled per shape and batch size.

- To a low rank: randomised subspace iteration. A random subspace is multiplied by the
  matrix and its transpose a few times, and the matrix is decomposed inside of it.
- To full rank: through the smaller Gram matrix. With the eigenvectors `V` of `A^T A`,
  `A = (A V) V^T`, and the columns of `A V` are the left singular vectors times the
  singular values. That sum is exact up to float32, however small a singular value;
  left vectors of values below some 3e-4 of the largest are not orthogonal. The program
  for the eigenvectors, which takes a TPU's compiler minutes, takes one Gram matrix,
  so that all matrices with the same smaller side share it.

Source: Halko, Martinsson and Tropp, "Finding structure with randomness" (arXiv
0909.4061), algorithms 4.4 and 5.1.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST  # else a GPU multiplies in TF32, a TPU in bfloat16
OVERSAMPLING = 16  # dimensions of the random subspace beyond the rank
_POWER_ITERATIONS = 4
# Beyond this share of all directions, the Gram matrix is as fast and finds all of them.
_RANDOMISED_SHARE = 0.25
# Less energy than this beyond the rank, relative to all of it, is float32 rounding.
_ROUNDING = 2.0**-18


class BatchSVD(NamedTuple):
    """`u @ diag(values[:r]) @ v.T` for each matrix, the largest value first.

    Attributes:
      u: `[B, out, r]`, in the dtype asked for; unit columns.
      v: `[B, in, r]`, in the dtype asked for; orthonormal columns.
      values: float32 `[B, n]`, >= 0. Their squares sum up to the energy of the matrix.
        The Gram matrix gives all singular values, n = min(out, in). Randomised, n is
        r + 1: the last one is the root of all energy beyond r.
      rest: `[B, out, in]`, the matrix without these components; None if it is not
        wanted.
    """

    u: jax.Array
    v: jax.Array
    values: jax.Array
    rest: jax.Array | None


def is_randomised(shape: tuple[int, int], rank: int | Literal["full"]) -> bool:
    """True if a matrix is decomposed to this rank in a random subspace."""
    most = _RANDOMISED_SHARE * min(shape)
    return rank != "full" and rank + OVERSAMPLING <= most


def batch_svd(
    matrices: jax.Array,
    rank: int | Literal["full"],
    dtype: str = "float32",
    keep_rest: bool = False,
) -> BatchSVD:
    """Decomposes matrices of one shape.

    The sign of each component is chosen so that the entry of its `u` column with the
    largest magnitude is positive. The random subspace depends on the shape only, so
    that equal matrices have equal results on one kind of device.

    Args:
      matrices: float32 `[B, out, in]`.
      rank: r, or "full".
      dtype: of the directions and the rest.
      keep_rest: whether the rest is returned.
    """
    shape = matrices.shape[1:]
    keep = min(shape) if rank == "full" else min(rank, *shape)
    if is_randomised(shape, rank):
        return randomised_svd(matrices, keep, dtype, keep_rest)
    vectors = jnp.stack([eigenvectors(gram) for gram in gram_matrices(matrices)])
    return gram_svd(matrices, vectors, keep, dtype, keep_rest)


@functools.partial(jax.jit, static_argnames=("rank", "dtype", "keep_rest"))
def randomised_svd(
    matrices: jax.Array, rank: int, dtype: str, keep_rest: bool
) -> BatchSVD:
    """As `batch_svd`, in a random subspace."""
    found = jax.vmap(functools.partial(_randomised, rank=rank))(matrices)
    return _finish(matrices, *found, dtype, keep_rest)


@jax.jit
def gram_matrices(matrices: jax.Array) -> jax.Array:
    """Products of the smaller side: `[B, out, in]` to `[B, n, n]`."""
    tall = _tall(matrices)
    return _product(tall.mT, tall)


@jax.jit
def eigenvectors(gram: jax.Array) -> jax.Array:
    """The eigenvectors of one symmetric `[n, n]`, as columns."""
    return jnp.linalg.eigh(gram)[1]


@functools.partial(jax.jit, static_argnames=("rank", "dtype", "keep_rest"))
def gram_svd(
    matrices: jax.Array, vectors: jax.Array, rank: int, dtype: str, keep_rest: bool
) -> BatchSVD:
    """As `batch_svd`, given the eigenvectors `[B, n, n]` of the Gram matrices."""
    found = jax.vmap(functools.partial(_by_gram, rank=rank))(_tall(matrices), vectors)
    u, v, values = found
    if matrices.shape[1] < matrices.shape[2]:
        u, v = v, u
    return _finish(matrices, u, v, values, dtype, keep_rest)


def _tall(matrices: jax.Array) -> jax.Array:
    return matrices.mT if matrices.shape[1] < matrices.shape[2] else matrices


def _finish(matrices, u, v, values, dtype: str, keep_rest: bool) -> BatchSVD:
    largest = jnp.argmax(jnp.abs(u), axis=1, keepdims=True)
    signs = jnp.where(jnp.take_along_axis(u, largest, axis=1) < 0, -1.0, 1.0)
    u, v = u * signs, v * signs
    rest = None
    if keep_rest:
        scaled = u * values[:, None, : u.shape[2]]
        known = jnp.einsum("bor,bir->boi", scaled, v, precision=_HIGHEST)
        rest = (matrices - known).astype(dtype)
    return BatchSVD(u.astype(dtype), v.astype(dtype), values, rest)


def _by_gram(
    a: jax.Array, v: jax.Array, *, rank: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    scaled = _product(a, v)
    values = jnp.linalg.norm(scaled, axis=0)  # more exact than roots of eigenvalues
    order = jnp.argsort(-values)
    values, first = values[order], order[:rank]
    kept = values[:rank]
    u = scaled[:, first] / jnp.where(kept > 0, kept, 1)
    return u, v[:, first], values


def _randomised(a: jax.Array, *, rank: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    start = jax.random.normal(
        jax.random.key(0), (a.shape[1], rank + OVERSAMPLING), jnp.float32
    )
    q = _orthonormal(_product(a, start))
    for _ in range(_POWER_ITERATIONS):
        q = _orthonormal(_product(a, _orthonormal(_product(a.T, q))))
    # a is nearly q q^T a = q r^T w^T, with r of the size of the subspace.
    w, r = jnp.linalg.qr(_product(a.T, q))
    left, values, right = jnp.linalg.svd(r.T, full_matrices=False)
    u, v = _product(q, left[:, :rank]), _product(w, right[:rank].T)
    values = values[:rank]
    energy = jnp.sum(jnp.square(a))
    beyond = energy - jnp.sum(jnp.square(values))
    beyond = jnp.where(beyond > _ROUNDING * energy, beyond, 0)
    return u, v, jnp.append(values, jnp.sqrt(beyond))


def _orthonormal(a: jax.Array) -> jax.Array:
    return jnp.linalg.qr(a)[0]


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_HIGHEST)
