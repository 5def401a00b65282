"""The layers of a Llama as Flax modules, with what each row of a batch adds to them.

`LlamaProgram` in `llama` puts them together; B, L, S and R are as there.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from cycleqd_jax.models.attention import Kind, attend
from cycleqd_jax.models.llama import rope
from cycleqd_jax.models.llama.config import LlamaConfig

# Rows of one token each, for which a CPU multiplies faster from the other side.
_FEW = (2, 24)


@flax.struct.dataclass
class LowRank:
    """What one matrix gains per row of the batch: `U diag(c_b) V^T`.

    Attributes:
      u: `[out, R]`.
      v: `[in, R]`.
      c: `[B, R]`, or `[1, R]` for all rows alike.
    """

    u: jax.Array
    v: jax.Array
    c: jax.Array


@flax.struct.dataclass
class Deltas:
    """What the rows of a batch add to the shared weights, by parameter name.

    Attributes:
      matrices: low-rank additions to matrices; a name that is absent adds nothing.
      vectors: `[B, n]` additions to norm scales and biases.
    """

    matrices: dict[str, LowRank] = flax.struct.field(default_factory=dict)
    vectors: dict[str, jax.Array] = flax.struct.field(default_factory=dict)


class Cache(NamedTuple):
    """Keys and values of every layer, `[rows, kv_heads, S, head_dim]` each."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


class Packed(NamedTuple):
    """Rows that hold several sequences each, one after another.

    Attributes:
      segments: int32 `[B, L]`, which sequence of its row each token belongs to.
      positions: int32 `[B, L]`, each token's position in its own sequence.
    """

    segments: jax.Array
    positions: jax.Array


class CacheView(NamedTuple):
    """Where the rows of a batch lie in a cache.

    Attributes:
      cache: the whole cache.
      rows: int32 `[B]`, the cache row of each batch row, or None where batch row b is
        cache row b. A row past the end is written nowhere.
      span: how many tokens of each row are looked at; None for all. Static.
    """

    cache: Cache
    rows: jax.Array | None = None
    span: int | None = None


class Linear(nnx.Module):
    """`y = x W^T (+ bias)`, with the low-rank additions of each row."""

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype):
        shapes = config.weight_shapes()
        self.name = name
        self.weight = nnx.Param(jnp.zeros(shapes[f"{name}.weight"], dtype))
        if f"{name}.bias" in shapes:
            self.bias = nnx.Param(jnp.zeros(shapes[f"{name}.bias"], dtype))

    def __call__(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, in]` to `[B, L, out]`."""
        y = _times(x, self.weight[...])
        if (low_rank := deltas.matrices.get(f"{self.name}.weight")) is not None:
            inner = _times(x, low_rank.v.T) * low_rank.c[:, None, :]
            y = y + _times(inner, low_rank.u).astype(y.dtype)
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
        self.weight = nnx.Param(jnp.ones((config.hidden_size,), dtype))

    def __call__(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, hidden]` to the same."""
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = (wide * jax.lax.rsqrt(mean_square + self.epsilon)).astype(x.dtype)
        scale = self.weight[...]
        if (change := deltas.vectors.get(f"{self.name}.weight")) is not None:
            scale = (scale + change[:, None, :]).astype(x.dtype)
        return normed * scale


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(
        self, config: LlamaConfig, name: str, dtype: jnp.dtype, kind: Kind = "xla"
    ):
        self.kind = kind
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.q_proj = Linear(config, f"{name}.q_proj", dtype)
        self.k_proj = Linear(config, f"{name}.k_proj", dtype)
        self.v_proj = Linear(config, f"{name}.v_proj", dtype)
        self.o_proj = Linear(config, f"{name}.o_proj", dtype)

    def __call__(self, x, deltas, positions, turn, layer_cache, view, segments=None):
        """`[B, L, hidden]` to the same, and the layer's (keys, values)."""
        batch, length, _ = x.shape
        split = (batch, length, -1, self.head_dim)
        queries = rope.rotate(self.q_proj(x, deltas).reshape(split), *turn)
        keys = rope.rotate(self.k_proj(x, deltas).reshape(split), *turn)
        values = self.v_proj(x, deltas).reshape(split)
        if layer_cache is None:
            all_keys, all_values = (a.swapaxes(1, 2) for a in (keys, values))
            seen = (all_keys, all_values)
        else:
            rows, span = view.rows, view.span
            at = jnp.arange(batch) if rows is None else rows
            index = (at[:, None], slice(None), positions)
            layer_cache = tuple(
                old.at[index].set(new.astype(old.dtype), mode="drop")
                for old, new in zip(layer_cache, (keys, values), strict=True)
            )
            all_keys, all_values = layer_cache
            seen = tuple(a[:, :, :span] for a in layer_cache)
            if rows is not None:
                seen = tuple(a.at[rows].get(mode="clip") for a in seen)
        mixed = attend(queries, *seen, positions, segments, kind=self.kind)
        return self.o_proj(mixed, deltas), (all_keys, all_values)


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
    """One transformer layer."""

    def __init__(
        self, config: LlamaConfig, name: str, dtype: jnp.dtype, kind: Kind = "xla"
    ):
        self.self_attn = Attention(config, f"{name}.self_attn", dtype, kind)
        self.mlp = MLP(config, f"{name}.mlp", dtype)
        self.input_layernorm = RMSNorm(config, f"{name}.input_layernorm", dtype)
        self.post_attention_layernorm = RMSNorm(
            config, f"{name}.post_attention_layernorm", dtype
        )

    def __call__(self, x, deltas, positions, turn, layer_cache, view, segments=None):
        """`[B, L, hidden]` to the same, and the layer's (keys, values)."""
        normed = self.input_layernorm(x, deltas)
        mixed, layer_cache = self.self_attn(
            normed, deltas, positions, turn, layer_cache, view, segments
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
            inner = low_rank.u[tokens] * low_rank.c[:, None, :]
            x = x + _times(inner, low_rank.v).astype(x.dtype)
        return x

    def attend(self, x: jax.Array, deltas: Deltas) -> jax.Array:
        """`[B, L, hidden]` to logits `[B, L, vocabulary]`."""
        y = _times(x, self.weight[...])
        if (low_rank := deltas.matrices.get(f"{self.name}.weight")) is not None:
            inner = _times(x, low_rank.v.T) * low_rank.c[:, None, :]
            y = y + _times(inner, low_rank.u).astype(y.dtype)
        return y


def _times(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """`x M^T` for `x` `[B, L, in]` and `M` `[out, in]`."""
    batch, length, _ = x.shape
    rows, columns = matrix.shape
    few = length == 1 and _FEW[0] <= batch <= _FEW[1] and rows <= 4 * columns
    if few and jax.default_backend() == "cpu":
        # With the matrix first, a CPU's product with a few vectors is a fifth faster.
        # XLA would put it second again without the barrier.
        y = jax.lax.optimization_barrier(jnp.einsum("oi,bi->ob", matrix, x[:, 0]))
        return y.T[:, None]
    return jnp.einsum("...i,oi->...o", x, matrix)
