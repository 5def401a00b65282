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

import jax
import jax.numpy as jnp
from flax import nnx

from cycleqd_jax.models.attention import Kind
from cycleqd_jax.models.llama import rope
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.layers import (
    Cache,
    CacheView,
    Deltas,
    Embedding,
    Layer,
    Linear,
    LowRank,
    Packed,
    RMSNorm,
)

__all__ = [
    "Cache",
    "CacheView",
    "Deltas",
    "Llama",
    "LlamaProgram",
    "LowRank",
    "Packed",
]

Weights = Mapping[str, jax.Array]


class Decoder(nnx.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype, kind: Kind):
        self.embed_tokens = Embedding(config, f"{name}.embed_tokens", dtype)
        self.layers = nnx.List(
            Layer(config, f"{name}.layers.{i}", dtype, kind)
            for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config, f"{name}.norm", dtype)


class Llama(nnx.Module):
    """The whole model; see `LlamaProgram` for how it is called from outside."""

    def __init__(self, config: LlamaConfig, dtype: jnp.dtype, kind: Kind = "xla"):
        self.rotary = rope.make_rotary(config)
        self.model = Decoder(config, "model", dtype, kind)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config, "lm_head", dtype)

    def hidden(
        self, tokens, positions, lengths, deltas, view, packed=None, recompute=False
    ):
        """Final hidden states `[B, L, hidden]` and the cache after these tokens."""
        turned = positions if packed is None else packed.positions
        if packed is not None and self.rotary.context is not None:
            lengths = _segment_lengths(packed)
        turn = self.rotary.rotation(turned, lengths)
        segments = None if packed is None else packed.segments
        x = self.model.embed_tokens(tokens, deltas)
        keys, values = [], []
        for i, layer in enumerate(self.model.layers):
            old = (view.cache.keys[i], view.cache.values[i]) if view else None
            where = view._replace(cache=None) if view else None
            run = jax.checkpoint(layer) if recompute else layer
            x, (k, v) = run(x, deltas, positions, turn, old, where, segments)
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

    def __init__(
        self,
        config: LlamaConfig,
        dtype: jnp.dtype = jnp.float32,
        *,
        attention: Kind = "xla",
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        abstract = nnx.eval_shape(lambda: Llama(config, self.dtype, attention))
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
        self,
        weights: Weights,
        tokens: jax.Array,
        deltas: Deltas | None = None,
        *,
        lengths: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of whole sequences, without a cache; for training and scoring.

        Args:
          weights: the flat weights.
          tokens: int32 `[B, L]`; pad on the right, causality hides the padding.
          deltas: additions per row, or None.
          lengths: int32 `[B]`, tokens of each row without its padding; by default L.
            Only the rotary embeddings of dynamic and longrope models look at them.

        Returns:
          Float32 `[B, L, vocabulary]`.
        """
        hidden = self.hidden(weights, tokens, deltas, lengths=lengths)
        return self._bind(weights).logits(hidden, deltas or Deltas())

    def hidden(
        self,
        weights: Weights,
        tokens: jax.Array,
        deltas: Deltas | None = None,
        *,
        lengths: jax.Array | None = None,
        packed: Packed | None = None,
        recompute: bool = False,
    ) -> jax.Array:
        """As `full`, but the final hidden states `[B, L, hidden]`.

        Args:
          weights: the flat weights.
          tokens: int32 `[B, L]`.
          deltas: additions per row, or None.
          lengths: as for `full`; not looked at where rows are packed.
          packed: where the rows hold several sequences each; these do not see each
            other.
          recompute: whether a backward pass computes each layer again instead of
            keeping what it computed.
        """
        rows, length = tokens.shape
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        if lengths is None:
            lengths = jnp.full(rows, length, jnp.int32)
        hidden, _ = self._bind(weights).hidden(
            tokens, positions, lengths, deltas or Deltas(), None, packed, recompute
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
        lengths: jax.Array | None = None,
        every: bool = False,
    ) -> tuple[jax.Array, Cache]:
        """Appends L tokens to each row's sequence in the cache.

        With dynamic or longrope rotary embeddings, entries that are in the cache keep
        the frequencies they were made with, as in transformers' `generate` (`rope`).

        Args:
          weights: the flat weights.
          tokens: int32 `[B, L]`.
          offsets: int32 `[B]`, how many tokens each sequence had before.
          view: the cache and where the rows lie in it.
          deltas: additions per row, or None.
          last: int32 `[B]`, which of the L tokens to give logits for; default the
            last. Padding behind it writes cache entries that the sequence's next
            tokens overwrite before they are seen.
          lengths: int32 `[B]`, the length of each sequence by which its frequencies
            are chosen: that of the whole prompt where this is a part of one. By
            default the tokens up to and with `last`.
          every: whether to give the logits of all L tokens.

        Returns:
          Logits, float32 `[B, vocabulary]` (of every token: `[B, L, vocabulary]`), and
          the cache with the new entries.
        """
        deltas = deltas or Deltas()
        positions = offsets[:, None] + jnp.arange(tokens.shape[1])
        model = self._bind(weights)
        last = jnp.full_like(offsets, tokens.shape[1] - 1) if last is None else last
        lengths = offsets + last + 1 if lengths is None else lengths
        hidden, cache = model.hidden(tokens, positions, lengths, deltas, view)
        if every:
            return model.logits(hidden, deltas), cache
        hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)
        return model.logits(hidden, deltas)[:, 0], cache


def _segment_lengths(packed: Packed) -> jax.Array:
    """Tokens of the sequence that each token belongs to, int32 `[B, L]`."""
    same = packed.segments[:, :, None] == packed.segments[:, None, :]
    return jnp.max(jnp.where(same, packed.positions[:, None, :], 0), axis=-1) + 1
