"""Device calls of the engine: runs a compiled program and stores its tokens."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from cycleqd_jax.inference import arrays, programs
from cycleqd_jax.inference.population import Population
from cycleqd_jax.inference.programs import ProgramKey
from cycleqd_jax.inference.relay import ALONE, Alone, Leader
from cycleqd_jax.inference.sampling import Likeliest
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.inference.slots import BatchRow, Request
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.models import sharding
from cycleqd_jax.models.base import Cache, CausalLM, Weights

# A device call runs in a worker thread. It returns a function that writes its results
# into the requests; the scheduler calls that function in the event loop's thread.
StoreResults = Callable[[], None]


class DeviceCalls:
    """Owns weights, population and KV cache on the device, and runs programs on them.

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
        relay: Alone | Leader = ALONE,
    ):
        self.population = Population()
        self._relay = relay
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
        self._num_calls = 0

    @property
    def cache_bytes(self) -> int:
        """Size of the whole cache, over all devices."""
        arrays = jax.tree.leaves(jax.eval_shape(self._empty_cache))
        return sum(array.size * array.dtype.itemsize for array in arrays)

    def load(self, weights: Weights, population: Population) -> None:
        """Puts weights and population on the device, sharded if there is a mesh."""
        if self._mesh is not None:
            weights = sharding.place_weights(weights, self._mesh)
        self._weights = weights
        self.replace(population)

    def replace(self, population: Population) -> None:
        """Replaces the population; the weights stay."""
        self.population = self.place(population)

    def place(self, population: Population) -> Population:
        """The population sharded over the mesh, directions in the model's dtype.

        Cast here, they are not cast in every step. Directions in that dtype that are in
        their place already are not copied.
        """
        dtype = self._program.dtype
        u, v = (
            {n: a if a.dtype == dtype else a.astype(dtype) for n, a in side.items()}
            for side in (population.u, population.v)
        )
        if self._mesh is None:
            return population.replace(u=u, v=v)
        u, v = sharding.place_directions(u, v, self._mesh)
        tables = (population.coefficients, population.vectors)
        coefficients, vectors = sharding.replicate(tables, self._mesh)
        return population.replace(u=u, v=v, coefficients=coefficients, vectors=vectors)

    def programs(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Name and call of each greedy program; a call on padding compiles it.

        Programs that sample, score or return log-probabilities are compiled when a
        request first needs them; but all there are if `settings.every_call` is set.
        Those of short and few replies come first, those that only score come last.
        """
        settings, rows = self._settings, self._settings.prefill_rows
        prefills, decodes = settings.row_counts(rows), self._decode_row_counts()
        kinds = {"prefill": self._prefill, "decode": self._decode}
        calls = [
            (kind, count, span)
            for span in settings.spans
            for counts in itertools.zip_longest(prefills, decodes)
            for kind, count in zip(kinds, counts, strict=True)
            if count is not None
        ]
        if settings.every_call:
            kinds["score"] = self._score
            calls += [("score", n, span) for span in settings.spans for n in prefills]
        for kind, count, span in calls:
            call = functools.partial(kinds[kind], (), count, span)
            yield f"{kind}: {count} rows, {span} tokens of cache", call
        for span in settings.eviction_spans:
            yield (
                f"eviction: {span} tokens of cache",
                lambda span=span: self.write_slot(0, self.read_slot(0, span)),
            )

    def prefill(self, rows: Sequence[BatchRow]) -> StoreResults:
        """Puts the next chunk of each prompt into the cache.

        The last chunk of a prompt gives the first token of its reply.
        """
        start = time.perf_counter()
        self._begin_call(rows)
        num_rows = self._padded_prefill_rows(rows)
        span = self._prefill_span(rows)
        tokens, logprobs, top = self._prefill(rows, num_rows, span)
        self._count_prefill(start)

        def store() -> None:
            for i, row in enumerate(rows):
                if not row.is_current:
                    continue
                self._advance(row)
                if not row.request.in_prefill:
                    row.request.generated.append(int(tokens[i]))
                    if row.request.wants_logprobs:
                        row.request.logprobs.append(float(logprobs[i]))
                    _store_top(row.request, top, (slice(i, i + 1),))

        return store

    def score(self, rows: Sequence[BatchRow]) -> StoreResults:
        """Puts the next chunk of each text into the cache and scores its targets."""
        start = time.perf_counter()
        self._begin_call(rows)
        num_rows = self._padded_prefill_rows(rows)
        span = self._prefill_span(rows)
        logprobs, greedy, top = self._score(rows, num_rows, span)
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
                _store_top(request, top, (i, slice(skip, new)))
                self._stats.scored_tokens += max(new - skip, 0)

        return store

    def decode(self, rows: Sequence[BatchRow]) -> StoreResults:
        """Appends up to `decode_steps` tokens to each reply."""
        start = time.perf_counter()
        self._begin_call(rows)
        settings, stats = self._settings, self._stats
        longest = max(len(r.request.prompt) + len(r.request.generated) for r in rows)
        span = self._span(min(longest + settings.decode_steps, settings.length))
        num_rows = next(n for n in self._decode_row_counts() if n >= len(rows))
        tokens, logprobs, top = self._decode(rows, num_rows, span)
        stats.decode_seconds += time.perf_counter() - start
        stats.decode_calls += 1
        stats.busy_slots += len(rows)
        stats.all_slots += settings.slots

        def store() -> None:
            for i, row in enumerate(rows):
                if not row.is_current:
                    continue
                request, ids = row.request, tokens[i].tolist()
                new = [token for token in ids if token != programs.NO_TOKEN]
                # The newest token enters the cache with the next call.
                row.conversation.cached.extend([request.generated[-1], *new[:-1]])
                request.generated.extend(new)
                if request.wants_logprobs:
                    request.logprobs.extend(logprobs[i, : len(new)].tolist())
                _store_top(request, top, (i, slice(len(new))))
                stats.decode_tokens += len(new)

        return store

    def read_slot(self, slot: int, num_tokens: int) -> Cache:
        """Copies at least the first `num_tokens` tokens of a slot to the host."""
        spans = self._settings.eviction_spans
        span = next(span for span in spans if span >= num_tokens)
        return jax.device_get(
            self.run("read_slot", (np.array([slot], np.int32),), span)[0]
        )

    def write_slot(self, slot: int, part: Cache) -> None:
        """Copies the result of `read_slot` into a slot."""
        inputs = (part, np.array([slot], np.int32))
        self.run("write_slot", inputs, part.keys[0].shape[2])

    def run(
        self, program: str, inputs: tuple, span: int, **wanted: int
    ) -> Sequence[jax.Array | Likeliest | Cache | None]:
        """Runs a program on what is loaded, in all processes that share the mesh.

        Args:
          program: its name in `programs`.
          inputs: its arguments after weights, population and cache, on the host.
          span: how many tokens of each slot are read.
          **wanted: `samples`, `logprobs` and `top` of its `ProgramKey`.

        Returns:
          What it gives beside the cache.
        """
        key = ProgramKey(
            self._program, span, cache_sharding=self._cache_sharding, **wanted
        )
        with self._relay.telling("run", program, inputs, span, wanted):
            if program == "read_slot":
                return [programs.read_slot(self._cache, *inputs, key=key)]
            if program == "write_slot":
                cache = self._take_cache()
                self._cache = programs.write_slot(cache, *inputs, key=key)
                return []
            static = {}
            if program == "decode":
                static["steps"] = self._settings.decode_steps
                static["stop_ids"] = self._stop_ids
            *found, self._cache = getattr(programs, program)(
                self._weights,
                self.population,
                self._take_cache(),
                *inputs,
                key=key,
                **static,
            )
            return found

    def _begin_call(self, rows: Sequence[BatchRow]) -> None:
        """Numbers a call and records it in its conversations, for eviction."""
        self._num_calls += 1
        for row in rows:
            row.conversation.last_used = self._num_calls

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

    def _padded_prefill_rows(self, rows: Sequence[BatchRow]) -> int:
        counts = self._settings.row_counts(self._settings.prefill_rows)
        return next(count for count in counts if count >= len(rows))

    def _prefill_span(self, rows: Sequence[BatchRow]) -> int:
        chunk_size = self._settings.prefill_chunk
        return self._span(max(row.request.chunk_end(chunk_size) for row in rows))

    def _decode_row_counts(self) -> Sequence[int]:
        # On a mesh the slots are divided among devices, so a call includes all slots.
        slots = self._settings.slots
        return self._settings.row_counts(slots) if self._mesh is None else [slots]

    def _span(self, end: int) -> int:
        return next(span for span in self._settings.spans if span >= end)

    def _wanted(self, rows: Sequence[BatchRow]) -> dict[str, int]:
        if self._settings.every_call is not None:
            return dict(self._settings.every_call)
        return {
            "samples": any(row.request.sampling.temperature > 0 for row in rows),
            "logprobs": any(row.request.wants_logprobs for row in rows),
            "top": max((row.request.num_top for row in rows), default=0),
        }

    def _take_cache(self) -> Cache:
        """Takes the cache out of this object, since the next call donates its buffers.

        Returns an empty cache at the first call and after a failed call. On a mesh it
        is created sharded: one device may not hold all of it.
        """
        cache, self._cache = self._cache, None
        if cache is not None:
            return cache
        if self._cache_sharding is None:
            return self._empty_cache()
        return jax.jit(self._empty_cache, out_shardings=self._cache_sharding)()

    def _prefill(
        self, rows: Sequence[BatchRow], num_rows: int, span: int
    ) -> tuple[np.ndarray, np.ndarray, Likeliest | None]:
        """First tokens, their log-probabilities and the most likely ones, by row."""
        inputs = (
            arrays.prefill_chunk(rows, self._settings, num_rows),
            arrays.sampling(rows, range(len(rows)), num_rows),
        )
        found = self.run("prefill", inputs, span, **self._wanted(rows))
        return jax.tree.map(lambda a: a[: len(rows)], tuple(jax.device_get(found)))

    def _score(
        self, rows: Sequence[BatchRow], num_rows: int, span: int
    ) -> tuple[np.ndarray, np.ndarray, Likeliest | None]:
        """Log-probabilities, whether each is the largest, and the most likely ones."""
        inputs = (
            arrays.prefill_chunk(rows, self._settings, num_rows),
            arrays.score_targets(rows, self._settings, num_rows),
        )
        num_top = self._wanted(rows)["top"]
        wanted = {"top": num_top} if num_top else {}
        return jax.device_get(self.run("score", inputs, span, **wanted))

    def _decode(
        self, rows: Sequence[BatchRow], num_rows: int, span: int
    ) -> tuple[np.ndarray, np.ndarray, Likeliest | None]:
        """Tokens and log-probabilities, `[len(rows), N]` each, and the most likely."""
        settings = self._settings
        # A call of all slots works on the cache in place: row i is slot i.
        in_place = num_rows == settings.slots
        indices = [row.slot for row in rows] if in_place else list(range(len(rows)))
        slots = None
        if not in_place:
            slots = np.full(num_rows, settings.slots, np.int32)
            slots[: len(rows)] = [row.slot for row in rows]
        inputs = (
            arrays.decode_state(rows, indices, settings, num_rows),
            arrays.sampling(rows, indices, num_rows),
            slots,
        )
        found = self.run("decode", inputs, span, **self._wanted(rows))
        return jax.tree.map(lambda a: a[indices], tuple(jax.device_get(found)))


def _store_top(request: Request, top: Likeliest | None, index: tuple) -> None:
    """Adds the places at an index of `top` to a request that wants them."""
    if not request.num_top:
        return
    tokens, logprobs = (part[index][:, : request.num_top].tolist() for part in top)
    request.top.extend(
        tuple(zip(*place, strict=True)) for place in zip(tokens, logprobs, strict=True)
    )
