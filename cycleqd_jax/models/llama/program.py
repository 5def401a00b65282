"""Llama as Flax modules, behind the `CausalLM` protocol.

Module paths joined with "." are Hugging Face's parameter names.

Source: Llama (arXiv 2302.13971, 2407.21783); checked against `transformers`.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from cycleqd_jax.models.attention import Kind
from cycleqd_jax.models.base import (
    Cache,
    CacheView,
    Deltas,
    Packed,
    TokenBatch,
    Weights,
)
from cycleqd_jax.models.llama import grams, rope
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.layers import Embedding, Layer, Linear, RMSNorm


class Decoder(nnx.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: LlamaConfig, name: str, dtype: jnp.dtype, kind: Kind):
        self.embed_tokens = Embedding(config, f"{name}.embed_tokens", dtype)
        self.layers = nnx.List(
            Layer(config, f"{name}.layers.{i}", dtype, kind, config.window(i))
            for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config, f"{name}.norm", dtype)


class Llama(nnx.Module):
    """The whole model; `LlamaProgram` is how it is called from outside."""

    def __init__(self, config: LlamaConfig, dtype: jnp.dtype, kind: Kind):
        self.rotary = rope.make_rotary(config)
        self.model = Decoder(config, "model", dtype, kind)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config, "lm_head", dtype)

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        lengths: jax.Array,
        deltas: Deltas,
        view: CacheView | None = None,
        packed: Packed | None = None,
        recompute: bool = False,
    ) -> tuple[jax.Array, Cache]:
        """Final hidden states `[B, L, hidden]`, and the cache after these tokens.

        `positions`, int32 `[B, L]`, are the tokens' indices in their row. A token
        attends to positions up to its own. The other arguments are as in `CausalLM`.
        """
        rope_positions, segments = positions, None
        if packed is not None:
            rope_positions, segments = packed.positions, packed.segments
            if self.rotary.context is not None:
                lengths = _segment_lengths(packed)
        rotation = self.rotary.rotation(rope_positions, lengths)
        held = view and view.held
        rows = view and view._replace(
            cache=None, held=held and held._replace(cache=None)
        )
        x = self.model.embed_tokens(tokens, deltas)
        keys, values = [], []
        for i, layer in enumerate(self.model.layers):
            layer_cache = (view.cache.keys[i], view.cache.values[i]) if view else None
            if held:
                layer_cache += (held.cache.keys[i], held.cache.values[i])
            run = jax.checkpoint(layer) if recompute else layer
            x, (k, v) = run(x, deltas, positions, rotation, layer_cache, rows, segments)
            keys.append(k)
            values.append(v)
        return self.model.norm(x, deltas), Cache(tuple(keys), tuple(values))

    def logits(self, hidden: jax.Array, deltas: Deltas) -> jax.Array:
        """Float32 `[B, L, vocab]`."""
        if hasattr(self, "lm_head"):
            return self.lm_head(hidden, deltas).astype(jnp.float32)
        return self.model.embed_tokens.logits(hidden, deltas).astype(jnp.float32)


class LlamaProgram:
    """The model as pure functions of flat weights: a `base.CausalLM`."""

    def __init__(
        self,
        config: LlamaConfig,
        dtype: jnp.dtype | str = "float32",
        *,
        attention: Kind = "xla",
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        # A CPU writes a token of each row into a large array as fast as into a small
        # one; the kernels need all keys in one array.
        self.holds_back = attention == "dot_product"
        abstract = nnx.eval_shape(lambda: Llama(config, self.dtype, attention))
        self._graph, state = nnx.split(abstract)
        self._variables = {
            ".".join(map(str, path)): (path, variable)
            for path, variable in nnx.to_flat_state(state)
        }

    def _bind(self, weights: Weights) -> Llama:
        missing = sorted(self._variables.keys() - weights.keys())
        unknown = sorted(weights.keys() - self._variables.keys())
        if missing or unknown:
            raise ValueError(
                f"weights: expected the {len(self._variables)} weights of this model, "
                f"but {missing[:3]} are missing and {unknown[:3]} are unknown; load "
                "them with load_model."
            )
        return nnx.merge(
            self._graph,
            nnx.from_flat_state(
                {
                    path: variable.replace(weights[name])
                    for name, (path, variable) in self._variables.items()
                }
            ),
        )

    def empty_cache(self, rows: int, length: int) -> Cache:
        """As `CausalLM.empty_cache`."""
        config = self.config
        shape = (rows, config.num_key_value_heads, length, config.head_dim)
        layers = range(config.num_hidden_layers)
        return Cache(
            tuple(jnp.zeros(shape, self.dtype) for _ in layers),
            tuple(jnp.zeros(shape, self.dtype) for _ in layers),
        )

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
        """As `CausalLM.hidden`."""
        rows, length = tokens.shape
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        lengths = jnp.full(rows, length, jnp.int32) if lengths is None else lengths
        deltas = deltas or Deltas()
        hidden, _ = self._bind(weights).hidden(
            tokens, positions, lengths, deltas, packed=packed, recompute=recompute
        )
        return hidden

    def logits(
        self, weights: Weights, hidden: jax.Array, deltas: Deltas | None = None
    ) -> jax.Array:
        """As `CausalLM.logits`."""
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
        all_logits: bool = False,
    ) -> tuple[jax.Array, Cache]:
        """As `CausalLM.extend`; see `rope` for frequencies that depend on `lengths`."""
        deltas = deltas or Deltas()
        positions = offsets[:, None] + jnp.arange(tokens.shape[1])
        model = self._bind(weights)
        last = jnp.full_like(offsets, tokens.shape[1] - 1) if last is None else last
        lengths = offsets + last + 1 if lengths is None else lengths
        hidden, cache = model.hidden(tokens, positions, lengths, deltas, view)
        if all_logits:
            return model.logits(hidden, deltas), cache
        hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)
        return model.logits(hidden, deltas)[:, 0], cache

    def input_grams(
        self, weights: Weights, groups: Sequence[Sequence[TokenBatch]]
    ) -> Iterator[dict[str, list[jax.Array]]]:
        """As `CausalLM.input_grams`."""
        return grams.input_grams(self.config, self.dtype, weights, groups)


def _segment_lengths(packed: Packed) -> jax.Array:
    """Tokens of the sequence that each token belongs to, int32 `[B, L]`."""
    same = packed.segments[:, :, None] == packed.segments[:, None, :]
    return jnp.max(jnp.where(same, packed.positions[:, None, :], 0), axis=-1) + 1
