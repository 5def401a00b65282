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
from jax.sharding import NamedSharding, PartitionSpec

from cycleqd_jax.inference.sampling import Draws, greedy, logprob_of, sample
from cycleqd_jax.models import sharding
from cycleqd_jax.models.base import Cache, CacheView, CausalLM, Deltas, LowRank, Weights

NO_TOKEN = -1


@flax.struct.dataclass
class Population:
    """The individuals that share a pass, in factored form.

    Attributes:
      u: name -> `[out, R]`, shared.
      v: name -> `[in, R]`, shared.
      coefficients: `[I, G]`, those of all matrices side by side: one table, so that a
        child is put into it, and rows are looked up in it, by one operation. None
        without matrices.
      vectors: name -> `[I, n]`, what each individual adds to norm scales and biases.
      layout: (name, first column, R) of each matrix in `coefficients`; static.
    """

    u: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    v: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    coefficients: jax.Array | None = None
    vectors: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    layout: tuple[tuple[str, int, int], ...] = flax.struct.field(
        default=(), pytree_node=False
    )

    @classmethod
    def of_tables(
        cls,
        u: dict[str, jax.Array],
        v: dict[str, jax.Array],
        coefficients: dict[str, jax.Array],
        vectors: dict[str, jax.Array],
    ) -> "Population":
        """From one table of coefficients per matrix, name -> `[I, R]`."""
        layout, start = [], 0
        for name, table in coefficients.items():
            layout.append((name, start, table.shape[1]))
            start += table.shape[1]
        tables = list(coefficients.values())
        whole = jnp.concatenate(tables, axis=1) if tables else None
        return cls(u, v, whole, vectors, tuple(layout))

    @property
    def count(self) -> int:
        """I; 0 without any."""
        tables = jax.tree.leaves((self.coefficients, self.vectors))
        return tables[0].shape[0] if tables else 0

    def deltas(self, individuals: jax.Array) -> Deltas:
        """The additions of each row, from its individual's index, int32 `[B]`."""
        own = self.coefficients[individuals] if self.layout else None
        matrices = {
            name: LowRank(self.u[name], self.v[name], own[:, start : start + size])
            for name, start, size in self.layout
        }
        vectors = {name: table[individuals] for name, table in self.vectors.items()}
        return Deltas(matrices, vectors)


class Slots(NamedTuple):
    """What the decode step needs to know of each of B rows, `[B]` each.

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


class Chunk(NamedTuple):
    """A part of P conversations that is put into the cache in one call.

    Attributes:
      tokens: int32 `[P, C]`, padded behind `last`.
      rows: int32 `[P]`, the slot of each row; S where the row is unused.
      offsets: int32 `[P]`, tokens each slot holds already.
      last: int32 `[P]`, index of the last real token.
      lengths: int32 `[P]`, tokens of each row's whole prompt.
      individuals: int32 `[P]`.
    """

    tokens: jax.Array
    rows: jax.Array
    offsets: jax.Array
    last: jax.Array
    lengths: jax.Array
    individuals: jax.Array


class Form(NamedTuple):
    """What a program is compiled for, beside shapes; static.

    Attributes:
      program: the model.
      span: tokens of the cache that are looked at.
      sampled: whether some row draws at random.
      scored: whether log-probabilities are wanted.
      placed: where the cache lies on a mesh, None on one device.
    """

    program: CausalLM
    span: int
    sampled: bool = False
    scored: bool = False
    placed: NamedSharding | None = None


@partial(jax.jit, static_argnames="form", donate_argnames="cache")
def prefill(
    weights: Weights,
    population: Population,
    cache: Cache,
    chunk: Chunk,
    draws: Draws,
    *,
    form: Form,
) -> tuple[jax.Array, jax.Array, Cache]:
    """Appends one chunk to P slots.

    Args:
      weights: flat weights, shared by all rows.
      population: the individuals.
      cache: of all slots; donated.
      chunk: the new tokens.
      draws: how each row draws its first token.
      form: static.

    Returns:
      The next token, int32 `[P]`, its log-probability, float32 `[P]` (0 unless scored),
      and the cache.
    """
    deltas = population.deltas(chunk.individuals)
    logits, cache = form.program.extend(
        weights,
        chunk.tokens,
        chunk.offsets,
        CacheView(cache, chunk.rows, form.span),
        deltas,
        last=chunk.last,
        lengths=chunk.lengths,
    )
    token, logprob = _next(logits, draws, form)
    return token, logprob, _placed(cache, form)


@partial(
    jax.jit, static_argnames=("form", "steps", "stop_ids"), donate_argnames="cache"
)
def decode(
    weights: Weights,
    population: Population,
    cache: Cache,
    slots: Slots,
    draws: Draws,
    rows: jax.Array | None,
    *,
    form: Form,
    steps: int,
    stop_ids: tuple[int, ...],
) -> tuple[jax.Array, jax.Array, Cache]:
    """Produces up to `steps` tokens in every busy row.

    Ends early when no row is busy any more.

    Args:
      weights: flat weights, shared by all rows.
      population: the individuals.
      cache: of all slots; donated.
      slots: the states of B rows.
      draws: how each row draws.
      rows: int32 `[B]`, the slot of each row; None where B is all slots in order.
      form: static.
      steps: N; static.
      stop_ids: token ids that end a reply; static.

    Returns:
      Int32 `[B, N]`, `NO_TOKEN` where nothing was produced; their log-probabilities,
      float32 `[B, N]` (0 unless scored); and the cache.
    """
    if form.placed is not None and rows is None:  # each device computes its own slots
        own_slots = sharding.by_slot(form.placed.mesh)
        slots = jax.lax.with_sharding_constraint(slots, own_slots)
        draws = jax.lax.with_sharding_constraint(draws, own_slots)
    deltas = population.deltas(slots.individuals)
    stops = jnp.asarray(stop_ids, jnp.int32)
    # Few rows work on a copy of their part of the cache, which is put back at the end.
    own = cache if rows is None else _take_rows(cache, rows, form.span)

    def unfinished(carry):
        step, _, state, _, _, _ = carry
        return (step < steps) & jnp.any(state.remaining > 0)

    def one(carry):
        step, own, state, counts, produced, logprobs = carry
        logits, own = form.program.extend(
            weights,
            state.tokens[:, None],
            state.lengths,
            CacheView(own, None, form.span),
            deltas,
        )
        busy = state.remaining > 0
        token, logprob = _next(logits, draws._replace(counts=counts), form)
        token = jnp.where(busy, token, NO_TOKEN)
        produced = produced.at[:, step].set(token)
        logprobs = logprobs.at[:, step].set(jnp.where(busy, logprob, 0.0))
        ended = jnp.any(token[:, None] == stops, axis=1)
        state = state._replace(
            tokens=jnp.where(busy, token, state.tokens),
            lengths=state.lengths + busy,
            remaining=jnp.where(ended, 0, state.remaining - busy),
        )
        return step + 1, own, state, counts + 1, produced, logprobs

    shape = (slots.tokens.shape[0], steps)
    produced = jnp.full(shape, NO_TOKEN, jnp.int32)
    start = (jnp.int32(0), own, slots, draws.counts, produced, jnp.zeros(shape))
    _, own, _, _, produced, logprobs = jax.lax.while_loop(unfinished, one, start)
    if rows is not None:
        own = _put_rows(cache, own, rows, form.span)
    return produced, logprobs, _placed(own, form)


@partial(jax.jit, static_argnames="form", donate_argnames="cache")
def score(
    weights: Weights,
    population: Population,
    cache: Cache,
    chunk: Chunk,
    targets: jax.Array,
    *,
    form: Form,
) -> tuple[jax.Array, jax.Array, Cache]:
    """Appends one chunk to P slots and scores the token after each of its tokens.

    Args:
      weights: flat weights, shared by all rows.
      population: the individuals.
      cache: of all slots; donated.
      chunk: the new tokens.
      targets: int32 `[P, C]`, what follows each of them.
      form: static.

    Returns:
      Log-probabilities of the targets, float32 `[P, C]`, whether each is the most
      likely token, bool `[P, C]`, and the cache.
    """
    deltas = population.deltas(chunk.individuals)
    logits, cache = form.program.extend(
        weights,
        chunk.tokens,
        chunk.offsets,
        CacheView(cache, chunk.rows, form.span),
        deltas,
        lengths=chunk.lengths,
        every=True,
    )
    best = jnp.argmax(logits, axis=-1) == targets
    return logprob_of(logits, targets), best, _placed(cache, form)


@partial(jax.jit, static_argnames="form")
def take_row(cache: Cache, slot: jax.Array, *, form: Form) -> Cache:
    """The first `form.span` tokens of a slot, int32 `[1]`, whole on every device."""
    row = _take_rows(cache, slot, form.span)
    if form.placed is None:
        return row
    whole = NamedSharding(form.placed.mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(row, whole)


@partial(jax.jit, static_argnames="form", donate_argnames="cache")
def put_row(cache: Cache, row: Cache, slot: jax.Array, *, form: Form) -> Cache:
    """The cache with what `take_row` gave in a slot, int32 `[1]`; it is donated."""
    return _placed(_put_rows(cache, row, slot, form.span), form)


def _next(logits, draws: Draws, form: Form) -> tuple[jax.Array, jax.Array]:
    token = sample(logits, draws) if form.sampled else greedy(logits)
    if not form.scored:
        return token, jnp.zeros(token.shape, jnp.float32)
    return token, logprob_of(logits, token)


def _placed(cache: Cache, form: Form) -> Cache:
    if form.placed is None:
        return cache
    return jax.lax.with_sharding_constraint(cache, form.placed)


def _take_rows(cache: Cache, rows: jax.Array, span: int) -> Cache:
    return jax.tree.map(lambda a: a[:, :, :span].at[rows].get(mode="clip"), cache)


def _put_rows(cache: Cache, own: Cache, rows: jax.Array, span: int) -> Cache:
    def put(whole: jax.Array, part: jax.Array) -> jax.Array:
        return whole.at[rows, :, :span].set(part, mode="drop")

    return jax.tree.map(put, cache, own)
