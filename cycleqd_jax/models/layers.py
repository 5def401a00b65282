"""Layers of language models as Flax modules, with what each batch row adds to them.

The shape of a parameter is that of its Hugging Face name in `config.weight_shapes()`.
B, L, R are as in `models.base`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cycleqd_jax.models.base import Deltas, LowRank, ModelConfig

# Decoding batches of these sizes multiply faster on a CPU with the matrix on the left.
_LEAST_ROWS, _MOST_ROWS = 2, 24


def parameter(config: ModelConfig, name: str, dtype: jnp.dtype) -> nnx.Param:
    """The parameter with a Hugging Face name; zeros until the weights are bound."""
    return nnx.Param(jnp.zeros(config.weight_shapes()[name], dtype))


class Linear(nnx.Module):
    """`y = x W^T (+ bias)`, with the additions of each row.

    Attributes:
      tapped: keep the input as an `nnx.Intermediate`, for the caller to pop.
    """

    tapped = False

    def __init__(self, config: ModelConfig, name: str, dtype: jnp.dtype):
        self.name = name
        self.weight = parameter(config, f"{name}.weight", dtype)
        if f"{name}.bias" in config.weight_shapes():
            self.bias = parameter(config, f"{name}.bias", dtype)

    def __call__(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, in]` to `[B, L, out]`."""
        if self.tapped:
            self.sow(nnx.Intermediate, "input", x)
        y = project(x, self.weight[...], deltas.matrices.get(f"{self.name}.weight"))
        if hasattr(self, "bias"):
            y = y + self.bias[...]
            if (change := deltas.vectors.get(f"{self.name}.bias")) is not None:
                y = y + change[:, None, :].astype(y.dtype)
        return y


class Embedding(nnx.Module):
    """Token embedding, also the output head of a model with tied embeddings."""

    def __init__(self, config: ModelConfig, name: str, dtype: jnp.dtype):
        self.name = name
        self.weight = parameter(config, f"{name}.weight", dtype)

    def __call__(self, tokens: jax.Array, deltas: Deltas) -> jax.Array:
        """Int32 `[B, L]` to `[B, L, hidden]`."""
        x = self.weight[...][tokens]
        if (low_rank := deltas.matrices.get(f"{self.name}.weight")) is not None:
            mixed = inner(low_rank.u[tokens], low_rank.c.swapaxes(1, -1))
            mixed = mixed.astype(low_rank.v.dtype)
            x = x + times(mixed, low_rank.v).astype(x.dtype)
        return x

    def logits(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, hidden]` to `[B, L, vocab]`."""
        low_rank = deltas.matrices.get(f"{self.name}.weight")
        return project(x, self.weight[...], low_rank)


def vector_of_rows(
    vector: nnx.Param, name: str, x: jax.Array, deltas: Deltas
) -> jax.Array:
    """The scale of a norm, or another vector that acts on the last dimension of `x`.

    Args:
      vector: `[n]`.
      name: its Hugging Face name.
      x: `[B, ..., n]`, what it acts on.
      deltas: additions per row.

    Returns:
      `[n]`, or `[B, 1, ..., n]` in the dtype of `x` where each row has an addition.
    """
    if (change := deltas.vectors.get(name)) is None:
        return vector[...]
    change = jnp.expand_dims(change, tuple(range(1, x.ndim - 1)))
    return (vector[...] + change).astype(x.dtype)


def project(x: jax.Array, weight: jax.Array, low_rank: LowRank | None) -> jax.Array:
    """`[B, L, in]` to `[B, L, out]`, with the low-rank addition of each row."""
    y = times(x, weight)
    if low_rank is None:
        return y
    # Not in the dtype of `c`: the directions would be cast to it in every step.
    mixed = inner(times(x, low_rank.v.T), low_rank.c).astype(low_rank.u.dtype)
    return y + times(mixed, low_rank.u).astype(y.dtype)


def inner(x: jax.Array, c: jax.Array) -> jax.Array:
    """`[B, L, Rv]` times diagonals `[B, R]`, or cores `[B, Ru, Rv]`: `[B, L, Ru]`."""
    if c.ndim == 2:
        return x * c[:, None, :]
    return jnp.einsum("blv,buv->blu", x, c)


def times(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """`x M^T` for `x` `[B, L, in]` and `M` `[out, in]`."""
    batch, length, _ = x.shape
    out, fan_in = matrix.shape
    few = length == 1 and _LEAST_ROWS <= batch <= _MOST_ROWS and out <= 4 * fan_in
    on_cpu = _times_few if few else _times_wide
    if few or x.dtype == matrix.dtype == jnp.bfloat16:
        return jax.lax.platform_dependent(x, matrix, cpu=on_cpu, default=_times_many)
    return _times_many(x, matrix)


def _times_few(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """As `times`; a fifth faster for few rows on a CPU."""
    # Without the barrier XLA would swap the operands back.
    wide = _wide("oi,bi->ob", matrix, x[:, 0])
    return jax.lax.optimization_barrier(wide).T[:, None].astype(x.dtype)


def _times_wide(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return _wide("...i,oi->...o", x, matrix).astype(x.dtype)


def _wide(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum in float32: a CPU multiplies bfloat16 twice as fast into float32.

    The sums are the same, since XLA adds up in float32 and rounds once.
    """
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _times_many(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.einsum("...i,oi->...o", x, matrix)
