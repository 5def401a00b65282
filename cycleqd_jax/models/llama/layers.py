"""The layers of a Llama as Flax modules, with what each batch row adds to them.

`program` puts them together. B, L, S and R are as in `models.base`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cycleqd_jax.models.attention import Kind, attend, attend_twice
from cycleqd_jax.models.base import CacheView, Deltas, LowRank
from cycleqd_jax.models.llama import rope
from cycleqd_jax.models.llama.config import LlamaConfig

# Decoding batches of these sizes multiply faster on a CPU with the matrix on the left.
_LEAST_ROWS, _MOST_ROWS = 2, 24

LayerCache = tuple[jax.Array, ...]  # keys and values of one layer


class Linear(nnx.Module):
    """`y = x W^T (+ bias)`, with the additions of each row.

    Attributes:
      tapped: keep the input as an `nnx.Intermediate`, for the caller to pop.
    """

    tapped = False

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype):
        shapes = config.weight_shapes()
        self.name = name
        self.weight = nnx.Param(jnp.zeros(shapes[f"{name}.weight"], dtype))
        if f"{name}.bias" in shapes:
            self.bias = nnx.Param(jnp.zeros(shapes[f"{name}.bias"], dtype))

    def __call__(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, in]` to `[B, L, out]`."""
        if self.tapped:
            self.sow(nnx.Intermediate, "input", x)
        y = _project(x, self.weight[...], deltas.matrices.get(f"{self.name}.weight"))
        if hasattr(self, "bias"):
            y = y + self.bias[...]
            if (change := deltas.vectors.get(f"{self.name}.bias")) is not None:
                y = y + change[:, None, :].astype(y.dtype)
        return y


class RMSNorm(nnx.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype):
        self.name = name
        self.epsilon = config.rms_norm_eps
        self.weight = nnx.Param(
            jnp.ones(config.weight_shapes()[f"{name}.weight"], dtype)
        )

    def __call__(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, ..., n]` to the same; the last dimension is normed."""
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = (wide * jax.lax.rsqrt(mean_square + self.epsilon)).astype(x.dtype)
        scale = self.weight[...]
        if (change := deltas.vectors.get(f"{self.name}.weight")) is not None:
            change = jnp.expand_dims(change, tuple(range(1, x.ndim - 1)))
            scale = (scale + change).astype(x.dtype)
        return normed * scale


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions.

    Attributes:
      kind: the implementation.
      window: how many tokens a query sees, its own included; None for all.
    """

    def __init__(
        self,
        config: LlamaConfig,
        name: str,
        dtype: jnp.dtype,
        kind: Kind,
        window: int | None,
    ):
        self.kind, self.window = kind, window
        self.head_dim = config.head_dim
        self.q_proj = Linear(config, f"{name}.q_proj", dtype)
        self.k_proj = Linear(config, f"{name}.k_proj", dtype)
        self.v_proj = Linear(config, f"{name}.v_proj", dtype)
        self.o_proj = Linear(config, f"{name}.o_proj", dtype)
        if config.head_norms:
            self.q_norm = RMSNorm(config, f"{name}.q_norm", dtype)
            self.k_norm = RMSNorm(config, f"{name}.k_norm", dtype)

    def __call__(
        self,
        x: jax.Array,
        deltas: Deltas,
        positions: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        layer_cache: LayerCache | None,
        view: CacheView | None,
        segments: jax.Array | None,
    ) -> tuple[jax.Array, LayerCache]:
        """Mixes the tokens of each row.

        Args:
          x: `[B, L, hidden]`.
          deltas: additions per row.
          positions: int32 `[B, L]`.
          rotation: cosines and sines of the positions, from `Rotary.rotation`.
          layer_cache: `[rows, kv_heads, S, head_dim]` each, with `view.held` followed
            by keys and values that are held back; None without a cache.
          view: which of its rows the batch uses; its caches are not used.
          segments: int32 `[B, L]` where rows are packed, else None.

        Returns:
          `[B, L, hidden]`, and the cache with the new keys and values (without a
          cache: only the new ones; with `view.held`: those held back).
        """
        batch, length, _ = x.shape
        split = (batch, length, -1, self.head_dim)
        queries = self.q_proj(x, deltas).reshape(split)
        keys = self.k_proj(x, deltas).reshape(split)
        if hasattr(self, "q_norm"):
            queries, keys = self.q_norm(queries, deltas), self.k_norm(keys, deltas)
        queries, keys = rope.rotate(queries, *rotation), rope.rotate(keys, *rotation)
        values = self.v_proj(x, deltas).reshape(split)
        if view is not None and view.held is not None:
            filled, step = view.held.filled, view.held.step
            held = tuple(
                jax.lax.dynamic_update_index_in_dim(
                    old, new[:, 0].astype(old.dtype), step, axis=2
                )
                for old, new in zip(layer_cache[2:], (keys, values), strict=True)
            )
            seen = tuple(a[:, :, : view.span] for a in layer_cache[:2])
            mixed = attend_twice(queries, seen, held, filled, step, self.window)
            return self.o_proj(mixed, deltas), held
        if layer_cache is None:
            layer_cache = seen = (keys.swapaxes(1, 2), values.swapaxes(1, 2))
        else:
            rows = jnp.arange(batch) if view.rows is None else view.rows
            index = (rows[:, None], slice(None), positions)
            layer_cache = tuple(
                old.at[index].set(new.astype(old.dtype), mode="drop")
                for old, new in zip(layer_cache, (keys, values), strict=True)
            )
            seen = tuple(a[:, :, : view.span] for a in layer_cache)
            if view.rows is not None:
                seen = tuple(a.at[rows].get(mode="clip") for a in seen)
        mixed = attend(
            queries, *seen, positions, segments, kind=self.kind, window=self.window
        )
        return self.o_proj(mixed, deltas), layer_cache


class MLP(nnx.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype):
        self.gate_proj = Linear(config, f"{name}.gate_proj", dtype)
        self.up_proj = Linear(config, f"{name}.up_proj", dtype)
        self.down_proj = Linear(config, f"{name}.down_proj", dtype)

    def __call__(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, hidden]` to the same."""
        gate = jax.nn.silu(self.gate_proj(x, deltas))
        return self.down_proj(gate * self.up_proj(x, deltas), deltas)


class Layer(nnx.Module):
    """One transformer layer; arguments and results as for `Attention`."""

    def __init__(
        self,
        config: LlamaConfig,
        name: str,
        dtype: jnp.dtype,
        kind: Kind,
        window: int | None = None,
    ):
        self.self_attn = Attention(config, f"{name}.self_attn", dtype, kind, window)
        self.mlp = MLP(config, f"{name}.mlp", dtype)
        self.input_layernorm = RMSNorm(config, f"{name}.input_layernorm", dtype)
        self.post_attention_layernorm = RMSNorm(
            config, f"{name}.post_attention_layernorm", dtype
        )

    def __call__(self, x, deltas, positions, rotation, layer_cache, view, segments):
        """See `Attention`."""
        normed = self.input_layernorm(x, deltas)
        mixed, layer_cache = self.self_attn(
            normed, deltas, positions, rotation, layer_cache, view, segments
        )
        x = x + mixed
        x = x + self.mlp(self.post_attention_layernorm(x, deltas), deltas)
        return x, layer_cache


class Embedding(nnx.Module):
    """Token embedding, also the output head of a model with tied embeddings."""

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype):
        self.name = name
        shape = (config.vocab_size, config.hidden_size)
        self.weight = nnx.Param(jnp.zeros(shape, dtype))

    def __call__(self, tokens: jax.Array, deltas: Deltas) -> jax.Array:
        """Int32 `[B, L]` to `[B, L, hidden]`."""
        x = self.weight[...][tokens]
        if (low_rank := deltas.matrices.get(f"{self.name}.weight")) is not None:
            inner = _inner(low_rank.u[tokens], low_rank.c.swapaxes(1, -1))
            inner = inner.astype(low_rank.v.dtype)
            x = x + _times(inner, low_rank.v).astype(x.dtype)
        return x

    def logits(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, hidden]` to `[B, L, vocab]`."""
        low_rank = deltas.matrices.get(f"{self.name}.weight")
        return _project(x, self.weight[...], low_rank)


def _project(x: jax.Array, weight: jax.Array, low_rank: LowRank | None) -> jax.Array:
    """`[B, L, in]` to `[B, L, out]`, with the low-rank addition of each row."""
    y = _times(x, weight)
    if low_rank is None:
        return y
    # Not in the dtype of `c`: the directions would be cast to it in every step.
    inner = _inner(_times(x, low_rank.v.T), low_rank.c).astype(low_rank.u.dtype)
    return y + _times(inner, low_rank.u).astype(y.dtype)


def _inner(x: jax.Array, c: jax.Array) -> jax.Array:
    """`[B, L, Rv]` times diagonals `[B, R]`, or cores `[B, Ru, Rv]`: `[B, L, Ru]`."""
    if c.ndim == 2:
        return x * c[:, None, :]
    return jnp.einsum("blv,buv->blu", x, c)


def _times(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """`x M^T` for `x` `[B, L, in]` and `M` `[out, in]`."""
    batch, length, _ = x.shape
    out, fan_in = matrix.shape
    few = length == 1 and _LEAST_ROWS <= batch <= _MOST_ROWS and out <= 4 * fan_in
    if few:
        return jax.lax.platform_dependent(
            x, matrix, cpu=_times_few, default=_times_many
        )
    return _times_many(x, matrix)


def _times_few(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """As `_times`; a fifth faster for few rows on a CPU."""
    # Without the barrier XLA would swap the operands back.
    y = jax.lax.optimization_barrier(jnp.einsum("oi,bi->ob", matrix, x[:, 0]))
    return y.T[:, None]


def _times_many(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.einsum("...i,oi->...o", x, matrix)
