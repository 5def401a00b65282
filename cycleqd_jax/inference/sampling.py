"""Chooses the next token from logits: greedy, temperature, top-k, top-p.

B denotes rows of a device call, V the vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.inference.requests import Sampling

_BLOCK = 128  # tokens per block in `_first_of_best_block`
_MIN_TEMPERATURE = 1e-30  # logits divided by it are finite


class RowSampling(NamedTuple):
    """Sampling parameters of each row, `[B]` each.

    Attributes:
      temperature: float32; 0 is greedy.
      top_k: int32; 0 keeps all tokens.
      top_p: float32; 1 keeps all tokens.
      seeds: uint32, of the request.
      counts: int32, tokens that the reply has already.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    seeds: jax.Array
    counts: jax.Array


def row_sampling(
    settings: Sequence[Sampling],
    generated: Sequence[int],
    indices: Sequence[int],
    size: int,
) -> RowSampling:
    """Arrays of `size` rows; the rows that are not in `indices` are greedy.

    Args:
      settings: of the rows at `indices`.
      generated: tokens that their replies have already.
      indices: one per row that is used.
      size: B.
    """
    temperature, top_p = np.zeros(size, np.float32), np.ones(size, np.float32)
    top_k, counts = np.zeros((2, size), np.int32)
    seeds = np.zeros(size, np.uint32)
    for i, sampling, count in zip(indices, settings, generated, strict=True):
        temperature[i], top_p[i] = sampling.temperature, sampling.top_p
        top_k[i], seeds[i], counts[i] = sampling.top_k, sampling.seed, count
    return RowSampling(temperature, top_k, top_p, seeds, counts)


def greedy(logits: jax.Array, *, divided: bool = False) -> jax.Array:
    """The most likely token; the lowest id among equals.

    Args:
      logits: float32 `[B, V]`, without NaN.
      divided: whether V is divided among devices; static.

    Returns:
      Int32 `[B]`.
    """
    if divided:
        return _first_of_best(logits)
    return jax.lax.platform_dependent(
        logits, cpu=_first_of_best_block, default=_first_of_best
    )


def _first_of_best(logits: jax.Array) -> jax.Array:
    """Two plain reductions: devices that share V tell each other B numbers in each."""
    best = jnp.max(logits, axis=-1, keepdims=True)
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    return jnp.min(jnp.where(logits == best, ids, logits.shape[1]), axis=-1)


def _first_of_best_block(logits: jax.Array) -> jax.Array:
    batch, size = logits.shape
    if size % _BLOCK:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    # First the block, then the token in it: on CPUs max is ten times as fast as argmax.
    # Both steps take the first of equals.
    blocks = logits.reshape(batch, size // _BLOCK, _BLOCK)
    block = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return (block * _BLOCK + jnp.argmax(inside, axis=-1)).astype(jnp.int32)


def sample(
    logits: jax.Array, sampling: RowSampling, *, divided: bool = False
) -> jax.Array:
    """Samples one token per row.

    The random numbers depend on the request's seed and the number of tokens before.

    Args:
      logits: float32 `[B, V]`.
      sampling: of each row.
      divided: as for `greedy`.

    Returns:
      Int32 `[B]`.
    """
    is_drawn = sampling.temperature > 0
    best = greedy(logits, divided=divided)

    def noise(seed: jax.Array, count: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), count)
        return jax.random.gumbel(key, logits.shape[1:])

    def draw() -> jax.Array:
        is_cut = is_drawn & ((sampling.top_k > 0) | (sampling.top_p < 1))
        kept = jax.lax.cond(
            jnp.any(is_cut),
            lambda: allowed(logits, sampling),
            lambda: jnp.ones(logits.shape, bool),
        )
        scaled = jnp.where(kept, _scaled(logits, sampling), -jnp.inf)
        noisy = scaled + jax.vmap(noise)(sampling.seeds, sampling.counts)
        return jnp.where(is_drawn, greedy(noisy, divided=divided), best)

    # Sorting and drawing take long, and few rows ask for them.
    return jax.lax.cond(jnp.any(is_drawn), draw, lambda: best)


def allowed(logits: jax.Array, sampling: RowSampling) -> jax.Array:
    """Tokens that top-k and top-p keep, bool `[B, V]`; always the most likely one.

    Top-p uses the probabilities after temperature and top-k, as transformers does.
    """
    scaled = _scaled(logits, sampling)
    ranked = jnp.sort(scaled, axis=-1, descending=True)
    k = jnp.where(sampling.top_k > 0, sampling.top_k, logits.shape[-1])
    last = jnp.clip(k - 1, 0, logits.shape[-1] - 1)
    least = jnp.take_along_axis(ranked, last[:, None], axis=-1)  # [B, 1]
    ranked = jnp.where(ranked >= least, ranked, -jnp.inf)
    shares = jax.nn.softmax(ranked, axis=-1)
    # A token is kept while the sum of those before it is below p.
    inside = jnp.cumsum(shares, axis=-1) - shares < sampling.top_p[:, None]
    # With p = 1 keep all: a sum of many rounded shares may reach 1 too early.
    inside |= sampling.top_p[:, None] >= 1
    inside = inside.at[:, 0].set(True) & jnp.isfinite(ranked)
    least = jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1, keepdims=True)
    return scaled >= least


def _scaled(logits: jax.Array, sampling: RowSampling) -> jax.Array:
    """Logits divided by the temperature; by 1 in greedy rows."""
    temperature = jnp.where(sampling.temperature > 0, sampling.temperature, 1.0)
    return logits / jnp.maximum(temperature, _MIN_TEMPERATURE)[:, None]


class Likeliest(NamedTuple):
    """The most likely tokens in a place, the first the most likely, `[..., k]` each.

    Attributes:
      tokens: int32.
      logprobs: float32, natural.
    """

    tokens: jax.Array
    logprobs: jax.Array


def likeliest(logits: jax.Array, count: int) -> Likeliest | None:
    """The `count` most likely tokens; None for a count of 0, which computes nothing.

    Args:
      logits: float32 `[..., V]`.
      count: k; static.
    """
    if not count:
        return None
    if count == 1:  # a largest value is found much faster than the order of all
        tokens = jnp.argmax(logits, axis=-1, keepdims=True).astype(jnp.int32)
        values = jnp.take_along_axis(logits, tokens, axis=-1)
    else:
        values, tokens = jax.lax.top_k(logits, count)
    return Likeliest(tokens, values - jax.nn.logsumexp(logits, axis=-1, keepdims=True))


def logprob_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Natural log-probability of one token per row, float32 `[...]`.

    Args:
      logits: float32 `[..., V]`.
      tokens: int32 `[...]`.
    """
    picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)
