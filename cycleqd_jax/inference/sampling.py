"""How the next token is taken from logits.

B denotes rows, V the vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_BLOCK = 128  # tokens of which the most likely is looked for together
_COLDEST = 1e-30  # logits over it are finite


class Draws(NamedTuple):
    """How each row draws its next token, `[B]` each.

    Attributes:
      temperature: float32; 0 is greedy.
      top_k: int32; 0 for all.
      top_p: float32; 1 for all.
      seeds: uint32, of the request.
      counts: int32, how many tokens the reply has already.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    seeds: jax.Array
    counts: jax.Array


def greedy(logits: jax.Array) -> jax.Array:
    """The most likely token, the lowest id among equals.

    Args:
      logits: float32 `[B, V]`.

    Returns:
      Int32 `[B]`.
    """
    batch, size = logits.shape
    if size % _BLOCK:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    # First the block, then the place in it: a CPU finds a maximum ten times as fast as
    # where it is. In both steps the first of equals wins.
    blocks = logits.reshape(batch, size // _BLOCK, _BLOCK)
    block = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return (block * _BLOCK + jnp.argmax(inside, axis=-1)).astype(jnp.int32)


def sample(logits: jax.Array, draws: Draws) -> jax.Array:
    """One token per row, drawn as its request asks.

    A draw is a function of the request's seed and of how many tokens came before it.

    Args:
      logits: float32 `[B, V]`.
      draws: of each row.

    Returns:
      Int32 `[B]`.
    """
    scaled = jnp.where(allowed(logits, draws), _scaled(logits, draws), -jnp.inf)

    def noise(seed: jax.Array, count: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), count)
        return jax.random.gumbel(key, logits.shape[1:])

    drawn = greedy(scaled + jax.vmap(noise)(draws.seeds, draws.counts))
    return jnp.where(draws.temperature > 0, drawn, greedy(logits))


def allowed(logits: jax.Array, draws: Draws) -> jax.Array:
    """Which tokens top-k and top-p leave, bool `[B, V]`; the best one always.

    Top-p looks at the probabilities after temperature and top-k, as transformers does.
    """
    scaled = _scaled(logits, draws)
    ranked = jnp.sort(scaled, axis=-1, descending=True)
    k = jnp.where(draws.top_k > 0, draws.top_k, logits.shape[-1])
    last = jnp.clip(k - 1, 0, logits.shape[-1] - 1)
    least = jnp.take_along_axis(ranked, last[:, None], axis=-1)  # [B, 1]
    ranked = jnp.where(ranked >= least, ranked, -jnp.inf)
    shares = jax.nn.softmax(ranked, axis=-1)
    # A token stays while those before it have not reached p.
    inside = jnp.cumsum(shares, axis=-1) - shares < draws.top_p[:, None]
    # The sum of many rounded shares may reach 1 before the last of them.
    inside |= draws.top_p[:, None] >= 1
    inside = inside.at[:, 0].set(True) & jnp.isfinite(ranked)
    least = jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1, keepdims=True)
    return scaled >= least


def _scaled(logits: jax.Array, draws: Draws) -> jax.Array:
    """Logits over temperature, 1 for greedy rows."""
    temperature = jnp.where(draws.temperature > 0, draws.temperature, 1.0)
    return logits / jnp.maximum(temperature, _COLDEST)[:, None]


def logprob_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Natural log-probability of one token per row, float32 `[...]`.

    Args:
      logits: float32 `[..., V]`.
      tokens: int32 `[...]`.
    """
    picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)
