"""Device calls of the engine: conversations to arrays, arrays to conversations."""

import functools
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cycleqd_jax.inference import programs
from cycleqd_jax.inference.population import Population
from cycleqd_jax.inference.programs import ProgramKey
from cycleqd_jax.inference.sampling import row_sampling
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.inference.slots import BatchRow
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.models import sharding
from cycleqd_jax.models.base import Cache, CausalLM, Weights

# A device call runs in a worker thread and changes only the cache. It returns a
# function that stores its results in the requests, called in the event loop's thread.
StoreResults = Callable[[], None]


class DeviceCalls:
    """Holds weights, population and cache, and calls the compiled programs.

    Attributes:
      population: the individuals, on the device.
    """

    def __init__(
        self,
        program: CausalLM,
        stop_ids: tuple[int, ...],
        settings: EngineSettings,
        stats: EngineStats,
        mesh: jax.sharding.Mesh | None = None,
    ):
        self.population = Population()
        self._program = program
        self._stop_ids = stop_ids
        self._settings = settings
        self._stats = stats
        self._mesh = mesh
        self._cache_sharding = None
        if mesh is not None:
            sharding.check_sizes(
                mesh, slots=settings.slots, kv_heads=program.config.num_key_value_heads
            )
            self._cache_sharding = sharding.cache_sharding(mesh)
        self._empty_cache = functools.partial(
            program.empty_cache, settings.slots, settings.length
        )
        self._weights: Weights | None = None
        self._cache: Cache | None = None
        self._calls = 0

    @property
    def cache_bytes(self) -> int:
        """Size of the whole cache, over all devices."""
        arrays = jax.tree.leaves(jax.eval_shape(self._empty_cache))
        return sum(array.size * array.dtype.itemsize for array in arrays)

    def load(self, weights: Weights, population: Population) -> None:
        """Sets weights and population; a mesh shards them."""
        if self._mesh is not None:
            weights = sharding.place_weights(weights, self._mesh)
        self._weights = weights
        self.replace(population)

    def replace(self, population: Population) -> None:
        """Sets another population."""
        self.population = self.place(population)

    def place(self, population: Population) -> Population:
        """Shards a population over the mesh; returns it unchanged without one."""
        if self._mesh is None:
            return population
        u, v = sharding.place_directions(population.u, population.v, self._mesh)
        tables = (population.coefficients, population.vectors)
        coefficients, vectors = sharding.replicate(tables, self._mesh)
        return population.replace(u=u, v=v, coefficients=coefficients, vectors=vectors)

    def compile(self, progress: Callable[[str], None]) -> None:
        """Compiles the greedy programs by calling each with unused rows only.

        The others are compiled at the first request that needs them.
        """
        settings = self._settings
        for span in settings.spans:
            for count in settings.row_counts(settings.prefill_rows):
                progress(f"prefill: {count} rows, {span} tokens of cache")
                self._prefill((), count, span)
        for span in settings.spans:
            for count in self._decode_sizes():
                progress(f"decode: {count} rows, {span} tokens of cache")
                self._decode((), count, span)
        for span in settings.eviction_spans:
            progress(f"eviction: {span} tokens of cache")
            self.write_slot(0, self.read_slot(0, span))

    def prefill(self, rows: Sequence[BatchRow]) -> StoreResults:
        """Puts the next chunk of each prompt into the cache.

        The last chunk of a prompt gives the first token of its reply.
        """
        start = time.perf_counter()
        count = self._prefill_size(rows)
        tokens, logprobs = self._prefill(rows, count, self._prefill_span(rows))
        self._count_prefill(start)

        def store() -> None:
            for row, token, logprob in zip(rows, tokens, logprobs, strict=False):
                if not row.is_current:
                    continue
                self._advance(row)
                if not row.request.in_prefill:
                    row.request.generated.append(int(token))
                    if row.request.wants_logprobs:
                        row.request.logprobs.append(float(logprob))

        return store

    def score(self, rows: Sequence[BatchRow]) -> StoreResults:
        """Puts the next chunk of each text into the cache and scores its targets."""
        start = time.perf_counter()
        size = self._settings.prefill_chunk
        count = self._prefill_size(rows)
        targets = np.zeros((count, size), np.int32)
        for i, row in enumerate(rows):
            request = row.request
            after = request.prompt[request.prefilled + 1 : request.chunk_end(size) + 1]
            targets[i, : len(after)] = after
        logprobs, greedy, self._cache = programs.score(
            self._weights,
            self.population,
            self._take_cache(),
            self._chunk(rows, count),
            targets,
            key=self._key(self._prefill_span(rows)),
        )
        logprobs, greedy = jax.device_get((logprobs, greedy))
        self._count_prefill(start)

        def store() -> None:
            for i, row in enumerate(rows):
                if not row.is_current:
                    continue
                request, first = row.request, row.request.prefilled
                new = self._advance(row)
                # Column j scores token first + j + 1 of the text.
                skip = max(request.score_from - 1 - first, 0)
                request.logprobs.extend(logprobs[i, skip:new].tolist())
                request.greedy.extend(greedy[i, skip:new].tolist())
                self._stats.scored_tokens += max(new - skip, 0)

        return store

    def decode(self, rows: Sequence[BatchRow]) -> StoreResults:
        """Appends up to `decode_steps` tokens to each reply."""
        start = time.perf_counter()
        settings, stats = self._settings, self._stats
        longest = max(len(r.request.prompt) + len(r.request.generated) for r in rows)
        span = self._span(min(longest + settings.decode_steps, settings.length))
        count = next(count for count in self._decode_sizes() if count >= len(rows))
        tokens, logprobs = self._decode(rows, count, span)
        stats.decode_seconds += time.perf_counter() - start
        stats.decode_calls += 1
        stats.busy_slots += len(rows)
        stats.all_slots += settings.slots

        def store() -> None:
            for row, ids, values in zip(rows, tokens, logprobs, strict=True):
                if not row.is_current:
                    continue
                request = row.request
                new = [token for token in ids.tolist() if token != programs.NO_TOKEN]
                # The newest token enters the cache with the next call.
                row.conversation.cached.extend([request.generated[-1], *new[:-1]])
                request.generated.extend(new)
                if request.wants_logprobs:
                    request.logprobs.extend(values[: len(new)].tolist())
                stats.decode_tokens += len(new)

        return store

    def read_slot(self, slot: int, count: int) -> Cache:
        """Copies at least the first `count` tokens of a slot to the host."""
        span = next(span for span in self._settings.eviction_spans if span >= count)
        index = np.array([slot], np.int32)
        return jax.device_get(
            programs.read_slot(self._cache, index, key=self._key(span))
        )

    def write_slot(self, slot: int, part: Cache) -> None:
        """Copies the result of `read_slot` into a slot."""
        index, key = np.array([slot], np.int32), self._key(part.keys[0].shape[2])
        self._cache = programs.write_slot(self._take_cache(), part, index, key=key)

    def _count_prefill(self, start: float) -> None:
        self._stats.prefill_seconds += time.perf_counter() - start
        self._stats.prefill_calls += 1

    def _advance(self, row: BatchRow) -> int:
        """Records that a chunk is in the cache; returns its number of tokens."""
        request = row.request
        end = request.chunk_end(self._settings.prefill_chunk)
        count = end - request.prefilled
        row.conversation.cached.extend(request.prompt[request.prefilled : end])
        request.prefilled = end
        self._stats.prefill_tokens += count
        return count

    def _prefill_size(self, rows: Sequence[BatchRow]) -> int:
        sizes = self._settings.row_counts(self._settings.prefill_rows)
        return next(size for size in sizes if size >= len(rows))

    def _prefill_span(self, rows: Sequence[BatchRow]) -> int:
        size = self._settings.prefill_chunk
        return self._span(max(row.request.chunk_end(size) for row in rows))

    def _decode_sizes(self) -> Sequence[int]:
        # On a mesh each device has its own slots, so each call has all of them.
        slots = self._settings.slots
        return self._settings.row_counts(slots) if self._mesh is None else [slots]

    def _span(self, end: int) -> int:
        return next(span for span in self._settings.spans if span >= end)

    def _key(self, span: int, rows: Sequence[BatchRow] = ()) -> ProgramKey:
        return ProgramKey(
            model=self._program,
            span=span,
            samples=any(row.request.sampling.temperature > 0 for row in rows),
            logprobs=any(row.request.wants_logprobs for row in rows),
            cache_sharding=self._cache_sharding,
        )

    def _take_cache(self) -> Cache:
        """The cache, which the next call gets as a donation; a new one after an error.

        A mesh creates it sharded, since one device may have no room for all of it.
        """
        self._calls += 1
        cache, self._cache = self._cache, None
        if cache is not None:
            return cache
        if self._cache_sharding is None:
            return self._empty_cache()
        return jax.jit(self._empty_cache, out_shardings=self._cache_sharding)()

    def _chunk(self, rows: Sequence[BatchRow], count: int) -> programs.PrefillChunk:
        settings = self._settings
        tokens = np.zeros((count, settings.prefill_chunk), np.int32)
        slots = np.full(count, settings.slots, np.int32)
        offsets, last, lengths, individuals = np.zeros((4, count), np.int32)
        for i, row in enumerate(rows):
            request = row.request
            end = request.chunk_end(settings.prefill_chunk)
            new = request.prompt[request.prefilled : end]
            tokens[i, : len(new)] = new
            slots[i] = row.slot
            offsets[i], last[i] = request.prefilled, len(new) - 1
            lengths[i] = len(request.prompt)
            individuals[i] = row.conversation.individual
            row.conversation.last_used = self._calls
        return programs.PrefillChunk(tokens, slots, offsets, last, lengths, individuals)

    def _sampling(self, rows: Sequence[BatchRow], indices: Sequence[int], count: int):
        settings = [row.request.sampling for row in rows]
        generated = [len(row.request.generated) for row in rows]
        return row_sampling(settings, generated, indices, count)

    def _prefill(self, rows: Sequence[BatchRow], count: int, span: int):
        tokens, logprobs, self._cache = programs.prefill(
            self._weights,
            self.population,
            self._take_cache(),
            self._chunk(rows, count),
            self._sampling(rows, range(len(rows)), count),
            key=self._key(span, rows),
        )
        return jax.device_get((tokens, logprobs))

    def _decode(self, rows: Sequence[BatchRow], count: int, span: int):
        """Tokens and log-probabilities, `[len(rows), N]` each."""
        settings = self._settings
        # A call of all slots works on the cache in place: row i is slot i.
        in_place = count == settings.slots
        indices = [row.slot for row in rows] if in_place else list(range(len(rows)))
        tokens, lengths, individuals, remaining = np.zeros((4, count), np.int32)
        # Unused rows write past the end of the cache, that is nowhere.
        lengths[:] = settings.length
        for i, row in zip(indices, rows, strict=True):
            request = row.request
            tokens[i] = request.generated[-1]
            lengths[i] = len(request.prompt) + len(request.generated) - 1
            individuals[i] = row.conversation.individual
            remaining[i] = request.limits.max_new_tokens - len(request.generated)
            row.conversation.last_used = self._calls
        slots = None
        if not in_place:
            slots = np.full(count, settings.slots, np.int32)
            slots[: len(rows)] = [row.slot for row in rows]
        generated, logprobs, self._cache = programs.decode(
            self._weights,
            self.population,
            self._take_cache(),
            programs.DecodeState(tokens, lengths, individuals, remaining),
            self._sampling(rows, indices, count),
            slots,
            key=self._key(span, rows),
            steps=settings.decode_steps,
            stop_ids=self._stop_ids,
        )
        generated, logprobs = jax.device_get((generated, logprobs))
        return generated[indices], logprobs[indices]
