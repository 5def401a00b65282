"""A causal language model in a few lines: the smallest thing that is a `CausalLM`."""

import dataclasses

import jax
import jax.numpy as jnp

from cycleqd_jax.models.base import Cache, Deltas

SHIFT = "shift.weight"


@dataclasses.dataclass(frozen=True)
class SummingConfig:
    """The sizes of a model with one weight, a number."""

    model_type: str = "summing"
    vocab_size: int = 97
    hidden_size: int = 1
    intermediate_size: int = 1
    num_hidden_layers: int = 1
    num_attention_heads: int = 1
    num_key_value_heads: int = 1
    head_dim: int = 1
    max_position_embeddings: int = 1000
    tie_word_embeddings: bool = False

    def weight_shapes(self):
        return {SHIFT: (1,)}

    def to_hf(self):
        return dataclasses.asdict(self)


class SummingLM:
    """Its next token is the sum of all tokens so far, plus its weight, modulo vocab.

    Earlier tokens are read from the cache, so a reply is right only if the engine has
    kept each of them in its place.
    """

    holds_back = False

    def __init__(self):
        self.config = SummingConfig()
        self.dtype = jnp.dtype("float32")

    def empty_cache(self, rows, length):
        shape = (rows, 1, length, 1)
        return Cache((jnp.zeros(shape, self.dtype),), (jnp.zeros(shape, self.dtype),))

    def extend(
        self,
        weights,
        tokens,
        offsets,
        view,
        deltas=None,
        *,
        last=None,
        lengths=None,
        all_logits=False,
    ):
        batch, length = tokens.shape
        rows = jnp.arange(batch) if view.rows is None else view.rows
        positions = offsets[:, None] + jnp.arange(length)
        index = (rows[:, None], 0, positions, 0)
        kept = view.cache.keys[0].at[index].set(tokens.astype(self.dtype), mode="drop")
        seen = kept[:, 0, : view.span, 0].at[rows].get(mode="clip")  # [B, S]
        visible = jnp.arange(seen.shape[1]) <= positions[..., None]  # [B, L, S]
        hidden = jnp.sum(visible * seen[:, None], axis=-1, keepdims=True)
        logits = self.logits(weights, hidden, deltas)
        cache = Cache((kept,), view.cache.values)
        if all_logits:
            return logits, cache
        last = jnp.full_like(offsets, length - 1) if last is None else last
        return jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0], cache

    def hidden(
        self,
        weights,
        tokens,
        deltas=None,
        *,
        lengths=None,
        packed=None,
        recompute=False,
    ):
        assert packed is None
        return jnp.cumsum(tokens, axis=1)[..., None].astype(self.dtype)

    def logits(self, weights, hidden, deltas=None):
        shift = weights[SHIFT] + (deltas or Deltas()).vectors.get(SHIFT, 0.0)
        shift = jnp.broadcast_to(shift, (hidden.shape[0], 1))[:, None]
        best = (hidden + shift).astype(jnp.int32)[..., 0] % self.config.vocab_size
        return 10 * jax.nn.one_hot(best, self.config.vocab_size, dtype=jnp.float32)


def next_tokens(prompt, shift, limit, stop_ids):
    """The reply that the model gives, in plain Python."""
    ids = list(prompt)
    while len(ids) < len(prompt) + limit:
        ids.append((sum(ids) + shift) % SummingConfig.vocab_size)
        if ids[-1] in stop_ids:
            break
    return tuple(ids[len(prompt) :])
