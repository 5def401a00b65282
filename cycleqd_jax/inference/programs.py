"""The compiled programs of the engine: prefill, decode, score, copy a slot.

Shapes are static and few. In a program of one shape the bits of a row do not depend on
its index or on the other rows; the engine's determinism rests on this.

S denotes slots, B rows of a call, P rows of a prefill call, C tokens of a prefill
chunk, N tokens of a decode call, I individuals, R the summed ranks of all experts.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cycleqd_jax.inference.population import Population
from cycleqd_jax.inference.sampling import (
    Likeliest,
    RowSampling,
    greedy,
    likeliest,
    logprob_of,
    sample,
)
from cycleqd_jax.models import sharding
from cycleqd_jax.models.base import Cache, CacheView, CausalLM, Held, Weights

NO_TOKEN = -1
NOT_FINITE = -2  # in place of a token: the logits hold NaN or infinity


class DecodeState(NamedTuple):
    """The state of each row of a decode call, `[B]` each.

    Attributes:
      tokens: int32, the newest token, not yet in the cache.
      lengths: int32, tokens in the cache.
      individuals: int32, index into the population.
      remaining: int32, how many more tokens it may generate; 0 in unused rows.
    """

    tokens: jax.Array
    lengths: jax.Array
    individuals: jax.Array
    remaining: jax.Array


class PrefillChunk(NamedTuple):
    """The next tokens of P conversations.

    Attributes:
      tokens: int32 `[P, C]`, padded after `last`.
      slots: int32 `[P]`, the slot of each row; S in unused rows.
      offsets: int32 `[P]`, tokens that each slot holds already.
      last: int32 `[P]`, index of the last token that is no padding.
      lengths: int32 `[P]`, tokens of the whole prompt.
      individuals: int32 `[P]`, index into the population.
    """

    tokens: jax.Array
    slots: jax.Array
    offsets: jax.Array
    last: jax.Array
    lengths: jax.Array
    individuals: jax.Array


class ProgramKey(NamedTuple):
    """The static facts that a program is compiled for, in addition to shapes.

    Attributes:
      model: the model.
      span: how many tokens of each slot are read.
      samples: whether some row samples; else all are greedy.
      logprobs: whether log-probabilities are computed.
      top: how many of the most likely tokens are returned with log-probabilities.
      cache_sharding: of the cache on a mesh; None on one device.
    """

    model: CausalLM
    span: int
    samples: bool = False
    logprobs: bool = False
    top: int = 0
    cache_sharding: NamedSharding | None = None


@partial(jax.jit, static_argnames="key", donate_argnames="cache")
def prefill(
    weights: Weights,
    population: Population,
    cache: Cache,
    chunk: PrefillChunk,
    sampling: RowSampling,
    *,
    key: ProgramKey,
) -> tuple[jax.Array, jax.Array, Likeliest | None, Cache]:
    """Appends one chunk to each of P slots.

    Args:
      weights: flat weights, shared by all rows.
      population: the individuals.
      cache: all slots; donated.
      chunk: the new tokens.
      sampling: how the first token of each reply is sampled.
      key: static.

    Returns:
      The token after the chunk, int32 `[P]`; its log-probability, float32 `[P]`, 0
      unless `key.logprobs`; the `key.top` most likely tokens, `[P, k]`; and the cache.
    """
    deltas = population.deltas(chunk.individuals)
    logits, cache = key.model.extend(
        weights,
        chunk.tokens,
        chunk.offsets,
        CacheView(cache, chunk.slots, key.span),
        deltas,
        last=chunk.last,
        lengths=chunk.lengths,
    )
    token, logprob = _next(logits, sampling, key)
    top = _whole(likeliest(logits, key.top), key)
    return _whole(token, key), _whole(logprob, key), top, _sharded(cache, key)


@partial(jax.jit, static_argnames=("key", "steps", "stop_ids"), donate_argnames="cache")
def decode(
    weights: Weights,
    population: Population,
    cache: Cache,
    state: DecodeState,
    sampling: RowSampling,
    slots: jax.Array | None,
    *,
    key: ProgramKey,
    steps: int,
    stop_ids: tuple[int, ...],
) -> tuple[jax.Array, jax.Array, Likeliest | None, Cache]:
    """Generates up to `steps` tokens in each row; ends early when no row has any left.

    Args:
      weights: flat weights, shared by all rows.
      population: the individuals.
      cache: all slots; donated.
      state: of B rows.
      sampling: of each row.
      slots: int32 `[B]`, the slot of each row; None if B is all slots in order.
      key: static.
      steps: N; static.
      stop_ids: token ids that end a reply; static.

    Returns:
      Tokens, int32 `[B, N]`, `NO_TOKEN` after the end of a row; their
      log-probabilities, float32 `[B, N]`, 0 unless `key.logprobs`; the `key.top` most
      likely tokens in each place, `[B, N, k]`; and the cache.
    """
    if key.cache_sharding is not None and slots is None:
        # Each device computes its own slots.
        by_slot = sharding.by_slot(key.cache_sharding.mesh)
        state = jax.lax.with_sharding_constraint(state, by_slot)
        sampling = jax.lax.with_sharding_constraint(sampling, by_slot)
    deltas = population.deltas(state.individuals)
    stops = jnp.asarray(stop_ids, jnp.int32)
    # Few rows work on a copy of their slots.
    own = cache if slots is None else _read_slots(cache, slots, key.span)
    first, count = state.lengths, state.tokens.shape[0]
    holds_back = key.model.holds_back
    written = own  # what the steps write to
    if holds_back:
        written = _sharded(key.model.empty_cache(count, steps), key)

    def unfinished(carry):
        step, _, state, *_ = carry
        return (step < steps) & jnp.any(state.remaining > 0)

    def one_step(carry):
        step, written, state, counts, tokens, logprobs, top = carry
        view = CacheView(written, None, key.span)
        if holds_back:
            view = CacheView(own, None, key.span, Held(written, first, step))
        logits, written = key.model.extend(
            weights, state.tokens[:, None], state.lengths, view, deltas
        )
        running = state.remaining > 0
        token, logprob = _next(logits, sampling._replace(counts=counts), key)
        token = jnp.where(running, token, NO_TOKEN)
        tokens = tokens.at[:, step].set(token)
        logprobs = logprobs.at[:, step].set(jnp.where(running, logprob, 0.0))
        top = jax.tree.map(
            lambda all_steps, own: all_steps.at[:, step].set(own),
            top,
            likeliest(logits, key.top),
        )
        ended = jnp.any(token[:, None] == stops, axis=1) | (token == NOT_FINITE)
        state = state._replace(
            tokens=jnp.where(running, token, state.tokens),
            lengths=state.lengths + running,
            remaining=jnp.where(ended, 0, state.remaining - running),
        )
        return step + 1, written, state, counts + 1, tokens, logprobs, top

    shape = (count, steps)
    tokens = jnp.full(shape, NO_TOKEN, jnp.int32)
    top = None
    if key.top:
        shape = (*shape, key.top)
        top = Likeliest(jnp.zeros(shape, jnp.int32), jnp.zeros(shape))
    logprobs = jnp.zeros(tokens.shape)
    start = (jnp.int32(0), written, state, sampling.counts, tokens, logprobs, top)
    end = jax.lax.while_loop(unfinished, one_step, start)
    _, written, state, _, tokens, logprobs, top = end
    if holds_back:
        written = _append(cache, written, slots, first, state.lengths)
    elif slots is not None:
        written = _write_slots(cache, written, slots, key.span)
    tokens, logprobs, top = _whole((tokens, logprobs, top), key)
    return tokens, logprobs, top, _sharded(written, key)


@partial(jax.jit, static_argnames="key", donate_argnames="cache")
def score(
    weights: Weights,
    population: Population,
    cache: Cache,
    chunk: PrefillChunk,
    targets: jax.Array,
    *,
    key: ProgramKey,
) -> tuple[jax.Array, jax.Array, Likeliest | None, Cache]:
    """Appends one chunk to each of P slots and scores the token after each token.

    Args:
      weights: flat weights, shared by all rows.
      population: the individuals.
      cache: all slots; donated.
      chunk: the new tokens.
      targets: int32 `[P, C]`, the token after each token of the chunk.
      key: static.

    Returns:
      Log-probabilities of the targets, float32 `[P, C]`, whether each is the most
      likely token, bool `[P, C]`, the `key.top` most likely tokens, `[P, C, k]`, and
      the cache.
    """
    deltas = population.deltas(chunk.individuals)
    logits, cache = key.model.extend(
        weights,
        chunk.tokens,
        chunk.offsets,
        CacheView(cache, chunk.slots, key.span),
        deltas,
        lengths=chunk.lengths,
        all_logits=True,
    )
    best = _whole(jnp.argmax(logits, axis=-1) == targets, key)
    top = _whole(likeliest(logits, key.top), key)
    return _whole(logprob_of(logits, targets), key), best, top, _sharded(cache, key)


@partial(jax.jit, static_argnames="key")
def read_slot(cache: Cache, slot: jax.Array, *, key: ProgramKey) -> Cache:
    """The first `key.span` tokens of a slot, int32 `[1]`, replicated on a mesh."""
    part = _read_slots(cache, slot, key.span)
    if key.cache_sharding is None:
        return part
    replicated = NamedSharding(key.cache_sharding.mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(part, replicated)


@partial(jax.jit, static_argnames="key", donate_argnames="cache")
def write_slot(cache: Cache, part: Cache, slot: jax.Array, *, key: ProgramKey) -> Cache:
    """The cache (donated) with the result of `read_slot` in a slot, int32 `[1]`."""
    return _sharded(_write_slots(cache, part, slot, key.span), key)


def _next(
    logits: jax.Array, sampling: RowSampling, key: ProgramKey
) -> tuple[jax.Array, jax.Array]:
    divided = key.cache_sharding is not None
    if key.samples:
        token = sample(logits, sampling, divided=divided)
    else:
        token = greedy(logits, divided=divided)
    # The largest of some values is not finite if one of them is NaN or plus infinity.
    is_finite = jnp.isfinite(jnp.max(logits, axis=-1))
    token = jnp.where(is_finite, token, NOT_FINITE)
    if not key.logprobs:
        return token, jnp.zeros(token.shape, jnp.float32)
    return token, logprob_of(logits, token)


def _sharded(cache: Cache, key: ProgramKey) -> Cache:
    if key.cache_sharding is None:
        return cache
    return jax.lax.with_sharding_constraint(cache, key.cache_sharding)


def _whole(tree: Any, key: ProgramKey) -> Any:
    """Arrays as they are, and in every process where several share the mesh."""
    if key.cache_sharding is None or key.cache_sharding.is_fully_addressable:
        return tree
    replicated = NamedSharding(key.cache_sharding.mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(tree, replicated)


def _read_slots(cache: Cache, slots: jax.Array, span: int) -> Cache:
    return jax.tree.map(lambda a: a[:, :, :span].at[slots].get(mode="clip"), cache)


def _append(
    cache: Cache,
    held: Cache,
    slots: jax.Array | None,
    first: jax.Array,
    end: jax.Array,
) -> Cache:
    """Writes tokens `first` to `end` of each row, int32 `[B]`, which were held back."""
    rows = jnp.arange(first.shape[0]) if slots is None else slots
    positions = first[:, None] + jnp.arange(held.keys[0].shape[2])
    # Nothing is written past the end of the cache.
    past = cache.keys[0].shape[2]
    positions = jnp.where(positions < end[:, None], positions, past)

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        index = (rows[:, None], slice(None), positions)
        return old.at[index].set(new.swapaxes(1, 2), mode="drop")

    return jax.tree.map(write, cache, held)


def _write_slots(cache: Cache, part: Cache, slots: jax.Array, span: int) -> Cache:
    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[slots, :, :span].set(new, mode="drop")

    return jax.tree.map(write, cache, part)
