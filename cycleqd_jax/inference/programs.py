"""The compiled steps of the engine: prefill a chunk, decode a few tokens.

Shapes are static and few: with one shape a row's bits depend neither on its place nor
on its neighbours, which is what the engine's determinism rests on.

S denotes slots, P rows of one prefill call, C tokens of a prefill chunk, N tokens of
one decode call, I individuals, R the summed ranks of all experts.
"""

from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from cycleqd_jax.inference.sampling import greedy
from cycleqd_jax.models.llama import (
    Cache,
    CacheView,
    Deltas,
    LlamaProgram,
    LowRank,
    Weights,
)

NO_TOKEN = -1


@flax.struct.dataclass
class Population:
    """The individuals that share a pass, in factored form.

    Attributes:
      u: name -> `[out, R]`, shared.
      v: name -> `[in, R]`, shared.
      coefficients: name -> `[I, R]`.
      vectors: name -> `[I, n]`, what each individual adds to norm scales and biases.
    """

    u: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    v: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    coefficients: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    vectors: dict[str, jax.Array] = flax.struct.field(default_factory=dict)

    def deltas(self, individuals: jax.Array) -> Deltas:
        """The additions of each row, from its individual's index, int32 `[B]`."""
        matrices = {
            name: LowRank(self.u[name], self.v[name], table[individuals])
            for name, table in self.coefficients.items()
        }
        vectors = {name: table[individuals] for name, table in self.vectors.items()}
        return Deltas(matrices, vectors)


class Slots(NamedTuple):
    """What the decode step needs to know of each slot, `[S]` each.

    Attributes:
      tokens: int32, the newest token, not yet in the cache.
      lengths: int32, tokens in the cache.
      individuals: int32, index into the population.
      remaining: int32, how many more tokens it may produce; 0 where it is idle.
    """

    tokens: jax.Array
    lengths: jax.Array
    individuals: jax.Array
    remaining: jax.Array


@partial(jax.jit, static_argnames="program", donate_argnames="cache")
def prefill(
    weights: Weights,
    population: Population,
    cache: Cache,
    tokens: jax.Array,
    rows: jax.Array,
    offsets: jax.Array,
    last: jax.Array,
    lengths: jax.Array,
    individuals: jax.Array,
    *,
    program: LlamaProgram,
) -> tuple[jax.Array, Cache]:
    """Appends one chunk to P slots.

    Args:
      weights: flat weights, shared by all rows.
      population: the individuals.
      cache: of all slots; donated.
      tokens: int32 `[P, C]`, padded behind `last`.
      rows: int32 `[P]`, the slot of each row; S where the row is unused.
      offsets: int32 `[P]`, tokens each slot holds already.
      last: int32 `[P]`, index of the last real token.
      lengths: int32 `[P]`, tokens of each row's whole prompt.
      individuals: int32 `[P]`.
      program: the model; static.

    Returns:
      The greedy next token, int32 `[P]`, and the cache.
    """
    deltas = population.deltas(individuals)
    view = CacheView(cache, rows)
    logits, cache = program.extend(
        weights, tokens, offsets, view, deltas, last=last, lengths=lengths
    )
    return greedy(logits), cache


@partial(
    jax.jit, static_argnames=("program", "steps", "stop_ids"), donate_argnames="cache"
)
def decode(
    weights: Weights,
    population: Population,
    cache: Cache,
    slots: Slots,
    *,
    program: LlamaProgram,
    steps: int,
    stop_ids: tuple[int, ...],
) -> tuple[jax.Array, Cache]:
    """Produces up to `steps` tokens in every busy slot, greedily.

    Ends early when no slot is busy any more.

    Args:
      weights: flat weights, shared by all rows.
      population: the individuals.
      cache: of all slots; donated.
      slots: their states.
      program: the model; static.
      steps: N; static.
      stop_ids: token ids that end a reply; static.

    Returns:
      Int32 `[S, N]`, `NO_TOKEN` where nothing was produced, and the cache.
    """
    deltas = population.deltas(slots.individuals)
    stops = jnp.asarray(stop_ids, jnp.int32)

    def unfinished(carry):
        step, _, state, _ = carry
        return (step < steps) & jnp.any(state.remaining > 0)

    def one(carry):
        step, cache, state, produced = carry
        view = CacheView(cache)
        logits, cache = program.extend(
            weights, state.tokens[:, None], state.lengths, view, deltas
        )
        busy = state.remaining > 0
        token = jnp.where(busy, greedy(logits), NO_TOKEN)
        produced = produced.at[:, step].set(token)
        ended = jnp.any(token[:, None] == stops, axis=1)
        state = state._replace(
            tokens=jnp.where(busy, token, state.tokens),
            lengths=state.lengths + busy,
            remaining=jnp.where(ended, 0, state.remaining - busy),
        )
        return step + 1, cache, state, produced

    produced = jnp.full((slots.tokens.shape[0], steps), NO_TOKEN, jnp.int32)
    _, cache, _, produced = jax.lax.while_loop(
        unfinished, one, (jnp.int32(0), cache, slots, produced)
    )
    return produced, cache
