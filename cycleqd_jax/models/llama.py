"""Llama as Flax modules, for one model or for a population that shares one pass.

Module paths joined with "." are Hugging Face's parameter names, and matrices are
`[out, in]` as there, so weights are a flat dict `{name: array}` everywhere outside.

The factored population form adds, per matrix and per row b of a batch,

    y_b = x_b W^T + ((x_b V) * c_b) U^T        and        p_b = p + d_b

where `U`, `V` are shared and `c_b`, `d_b` belong to the individual of row b
(design of the product: an individual is a small vector). `W` is read once for all rows.

B denotes rows of a batch, L new tokens per row, S the length of the cache,
R the summed ranks of all experts.

Source: Llama (arXiv 2302.13971, 2407.21783); checked against `transformers`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from cycleqd_jax.models import rope
from cycleqd_jax.models.attention import attend
from cycleqd_jax.models.config import LlamaConfig

Weights = Mapping[str, jax.Array]


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
    """

    cache: Cache
    rows: jax.Array | None = None


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

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype):
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.q_proj = Linear(config, f"{name}.q_proj", dtype)
        self.k_proj = Linear(config, f"{name}.k_proj", dtype)
        self.v_proj = Linear(config, f"{name}.v_proj", dtype)
        self.o_proj = Linear(config, f"{name}.o_proj", dtype)

    def __call__(self, x, deltas, positions, turn, layer_cache, rows, segments=None):
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
            at = jnp.arange(batch) if rows is None else rows
            index = (at[:, None], slice(None), positions)
            layer_cache = tuple(
                old.at[index].set(new.astype(old.dtype), mode="drop")
                for old, new in zip(layer_cache, (keys, values), strict=True)
            )
            all_keys, all_values = layer_cache
            seen = layer_cache
            if rows is not None:
                seen = tuple(a.at[rows].get(mode="clip") for a in layer_cache)
        mixed = attend(queries, *seen, positions, segments)
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

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype):
        self.self_attn = Attention(config, f"{name}.self_attn", dtype)
        self.mlp = MLP(config, f"{name}.mlp", dtype)
        self.input_layernorm = RMSNorm(config, f"{name}.input_layernorm", dtype)
        self.post_attention_layernorm = RMSNorm(
            config, f"{name}.post_attention_layernorm", dtype
        )

    def __call__(self, x, deltas, positions, turn, layer_cache, rows, segments=None):
        """`[B, L, hidden]` to the same, and the layer's (keys, values)."""
        normed = self.input_layernorm(x, deltas)
        mixed, layer_cache = self.self_attn(
            normed, deltas, positions, turn, layer_cache, rows, segments
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


class Decoder(nnx.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype):
        self.embed_tokens = Embedding(config, f"{name}.embed_tokens", dtype)
        self.layers = nnx.List(
            Layer(config, f"{name}.layers.{i}", dtype)
            for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config, f"{name}.norm", dtype)


class Llama(nnx.Module):
    """The whole model; see `LlamaProgram` for how it is called from outside."""

    def __init__(self, config: LlamaConfig, dtype: jnp.dtype):
        self.frequencies = tuple(rope.inverse_frequencies(config).tolist())
        self.model = Decoder(config, "model", dtype)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config, "lm_head", dtype)

    def hidden(self, tokens, positions, deltas, view, packed=None, recompute=False):
        """Final hidden states `[B, L, hidden]` and the cache after these tokens."""
        turned = positions if packed is None else packed.positions
        turn = rope.rotation(turned, jnp.asarray(self.frequencies, jnp.float32))
        segments = None if packed is None else packed.segments
        x = self.model.embed_tokens(tokens, deltas)
        keys, values = [], []
        for i, layer in enumerate(self.model.layers):
            old = (view.cache.keys[i], view.cache.values[i]) if view else None
            rows = view.rows if view else None
            run = jax.checkpoint(layer) if recompute else layer
            x, (k, v) = run(x, deltas, positions, turn, old, rows, segments)
            keys.append(k)
            values.append(v)
        x = self.model.norm(x, deltas)
        return x, Cache(tuple(keys), tuple(values))

    def logits(self, hidden: jax.Array, deltas: Deltas) -> jax.Array:
        """Float32 `[B, L, vocabulary]`."""
        if hasattr(self, "lm_head"):
            return self.lm_head(hidden, deltas).astype(jnp.float32)
        return self.model.embed_tokens.attend(hidden, deltas).astype(jnp.float32)


class LlamaProgram:
    """The model as pure functions of flat weights; holds shapes, never arrays."""

    def __init__(self, config: LlamaConfig, dtype: jnp.dtype = jnp.float32):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        abstract = nnx.eval_shape(lambda: Llama(config, self.dtype))
        self._graph, state = nnx.split(abstract)
        self._slots = {
            ".".join(map(str, path)): (path, slot)
            for path, slot in nnx.to_flat_state(state)
        }

    def weight_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every parameter, by Hugging Face's name."""
        return {
            name: jax.ShapeDtypeStruct(slot.shape, self.dtype)
            for name, (_, slot) in self._slots.items()
        }

    def _bind(self, weights: Weights) -> Llama:
        if weights.keys() != self._slots.keys():
            odd = sorted(weights.keys() ^ self._slots.keys())
            raise ValueError(
                f"weights should have the {len(self._slots)} names of this model, but "
                f"{odd[0]!r} is missing or unknown; load them with load_model."
            )
        return nnx.merge(
            self._graph,
            nnx.from_flat_state(
                {
                    path: slot.replace(weights[name])
                    for name, (path, slot) in self._slots.items()
                }
            ),
        )

    def empty_cache(self, rows: int, length: int) -> Cache:
        """A cache of zeros for `rows` sequences of up to `length` tokens."""
        config = self.config
        shape = (rows, config.num_key_value_heads, length, config.head_dim)
        layers = range(config.num_hidden_layers)
        return Cache(
            tuple(jnp.zeros(shape, self.dtype) for _ in layers),
            tuple(jnp.zeros(shape, self.dtype) for _ in layers),
        )

    def full(
        self, weights: Weights, tokens: jax.Array, deltas: Deltas | None = None
    ) -> jax.Array:
        """Logits of whole sequences, without a cache; for training and scoring.

        Args:
          weights: the flat weights.
          tokens: int32 `[B, L]`; pad on the right, causality hides the padding.
          deltas: additions per row, or None.

        Returns:
          Float32 `[B, L, vocabulary]`.
        """
        hidden = self.hidden(weights, tokens, deltas)
        return self._bind(weights).logits(hidden, deltas or Deltas())

    def hidden(
        self,
        weights: Weights,
        tokens: jax.Array,
        deltas: Deltas | None = None,
        *,
        packed: Packed | None = None,
        recompute: bool = False,
    ) -> jax.Array:
        """As `full`, but the final hidden states `[B, L, hidden]`.

        Args:
          weights: the flat weights.
          tokens: int32 `[B, L]`.
          deltas: additions per row, or None.
          packed: where the rows hold several sequences each; these do not see each
            other.
          recompute: whether a backward pass computes each layer again instead of
            keeping what it computed.
        """
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden, _ = self._bind(weights).hidden(
            tokens, positions, deltas or Deltas(), None, packed, recompute
        )
        return hidden

    def head(
        self, weights: Weights, hidden: jax.Array, deltas: Deltas | None = None
    ) -> jax.Array:
        """Logits, float32 `[B, L, vocabulary]`, of hidden states `[B, L, hidden]`."""
        return self._bind(weights).logits(hidden, deltas or Deltas())

    def extend(
        self,
        weights: Weights,
        tokens: jax.Array,
        offsets: jax.Array,
        view: CacheView,
        deltas: Deltas | None = None,
        *,
        last: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Appends L tokens to each row's sequence in the cache.

        Args:
          weights: the flat weights.
          tokens: int32 `[B, L]`.
          offsets: int32 `[B]`, how many tokens each sequence had before.
          view: the cache and where the rows lie in it.
          deltas: additions per row, or None.
          last: int32 `[B]`, which of the L tokens to give logits for; default the
            last. Padding behind it writes cache entries that the sequence's next
            tokens overwrite before they are seen.

        Returns:
          Logits, float32 `[B, vocabulary]`, and the cache with the new entries.
        """
        deltas = deltas or Deltas()
        positions = offsets[:, None] + jnp.arange(tokens.shape[1])
        model = self._bind(weights)
        hidden, cache = model.hidden(tokens, positions, deltas, view)
        last = jnp.full_like(offsets, tokens.shape[1] - 1) if last is None else last
        hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)
        return model.logits(hidden, deltas)[:, 0], cache


def _times(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """`x M^T` for `x` `[..., in]` and `M` `[out, in]`."""
    return jnp.einsum("...i,oi->...o", x, matrix)
