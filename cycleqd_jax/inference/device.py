"""Device calls of the engine: from conversations to arrays and back."""

import functools
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cycleqd_jax.inference import programs
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.inference.slots import Row, chunk_end, draws_of
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.models import sharding
from cycleqd_jax.models.llama.program import Cache, LlamaProgram, Weights

# Device calls run in a thread and change nothing but the cache; what they return notes
# their results, in the thread that serves.
Finish = Callable[[], None]


class DeviceCalls:
    """Holds what lies on the device: weights, population, cache."""

    def __init__(
        self,
        program: LlamaProgram,
        stop_ids: tuple[int, ...],
        settings: EngineSettings,
        stats: EngineStats,
        mesh: jax.sharding.Mesh | None = None,
    ):
        self.population = programs.Population()
        self._program = program
        self._stop_ids = stop_ids
        self._settings = settings
        self._stats = stats
        self._mesh = mesh
        self._placed = None
        if mesh is not None:
            sharding.check_sizes(
                mesh, slots=settings.slots, kv_heads=program.config.num_key_value_heads
            )
            self._placed = sharding.cache_sharding(mesh)
        self._weights: Weights | None = None
        self._cache = None
        self._calls = 0

    @property
    def cache_bytes(self) -> int:
        """Of the whole cache, on all devices together."""
        settings = self._settings
        empty = functools.partial(
            self._program.empty_cache, settings.slots, settings.length
        )
        arrays = jax.tree.leaves(jax.eval_shape(empty))
        return sum(array.size * array.dtype.itemsize for array in arrays)

    def load(self, weights: Weights, population: programs.Population) -> None:
        """Sets what runs; on a mesh it is put there."""
        if self._mesh is not None:
            weights = sharding.place_weights(weights, self._mesh)
        self._weights = weights
        self.replace(population)

    def replace(self, population: programs.Population) -> None:
        """Sets another population."""
        self.population = self.place(population)

    def place(self, population: programs.Population) -> programs.Population:
        """A population where it belongs; the same one without a mesh."""
        if self._mesh is None:
            return population
        u, v = sharding.place_directions(population.u, population.v, self._mesh)
        tables = (population.coefficients, population.vectors)
        coefficients, vectors = sharding.replicate(tables, self._mesh)
        return population.replace(u=u, v=v, coefficients=coefficients, vectors=vectors)

    def compile(self, progress: Callable[[str], None]) -> None:
        """Compiles the greedy programs by calling each with idle rows.

        Others are compiled when the first request asks for them.
        """
        settings = self._settings
        for span in settings.spans:
            for rows in settings.rows(settings.prefill_rows):
                progress(f"prefill: {rows} rows, {span} tokens of cache")
                self._prefill((), rows, span)
        for span in settings.spans:
            for rows in (
                settings.rows(settings.slots)
                if self._mesh is None
                else [settings.slots]
            ):
                progress(f"decode: {rows} rows, {span} tokens of cache")
                self._decode((), rows, span)
        for part in settings.parts:
            progress(f"setting aside: {part} tokens of cache")
            self.put(0, self.take(0, part))

    def prefill(self, rows: Sequence[Row]) -> Finish:
        """Puts the next chunk of each prompt into the cache.

        Where a prompt ends with it, the first token of its reply comes of it.
        """
        start = time.perf_counter()
        count = self._count(len(rows), self._settings.prefill_rows)
        tokens, logprobs = self._prefill(rows, count, self._chunk_span(rows))
        self._note_prefill(start)

        def finish() -> None:
            for row, token, logprob in zip(rows, tokens, logprobs, strict=False):
                if not row.is_current:
                    continue
                self._advance(row)
                if not row.request.in_prefill:
                    row.request.produced.append(int(token))
                    if row.request.logprobs:
                        row.request.values.append(float(logprob))

        return finish

    def score(self, rows: Sequence[Row]) -> Finish:
        """Puts the next chunk of each text into the cache and scores what follows."""
        start = time.perf_counter()
        settings = self._settings
        count = self._count(len(rows), settings.prefill_rows)
        targets = np.zeros((count, settings.prefill_chunk), np.int32)
        for i, row in enumerate(rows):
            request = row.request
            after = request.prompt[request.done + 1 : chunk_end(request, settings) + 1]
            targets[i, : len(after)] = after
        logprobs, hits, self._cache = programs.score(
            self._weights,
            self.population,
            self._take_cache(),
            self._chunk(rows, count),
            targets,
            form=self._form(self._chunk_span(rows)),
        )
        logprobs, hits = jax.device_get((logprobs, hits))
        self._note_prefill(start)

        def finish() -> None:
            for i, row in enumerate(rows):
                if not row.is_current:
                    continue
                request, first = row.request, row.request.done
                new = self._advance(row)
                # The token after place p is token p + 1 of the text.
                skip = max(request.targets - 1 - first, 0)
                request.values.extend(logprobs[i, skip:new].tolist())
                request.hits.extend(hits[i, skip:new].tolist())
                self._stats.scored_tokens += max(new - skip, 0)

        return finish

    def decode(self, rows: Sequence[Row]) -> Finish:
        """Appends a few tokens to each reply."""
        start = time.perf_counter()
        settings, stats = self._settings, self._stats
        longest = max(len(r.request.prompt) + len(r.request.produced) for r in rows)
        span = self._span(min(longest + settings.decode_steps, settings.length))
        # On a mesh every device has its own slots, so calls have all of them.
        count = settings.slots
        if self._mesh is None:
            count = self._count(len(rows), settings.slots)
        tokens, logprobs = self._decode(rows, count, span)
        stats.decode_seconds += time.perf_counter() - start
        stats.decode_calls += 1
        stats.busy_slots += len(rows)
        stats.all_slots += settings.slots

        def finish() -> None:
            for row, ids, values in zip(rows, tokens, logprobs, strict=True):
                if not row.is_current:
                    continue
                request = row.request
                new = [token for token in ids.tolist() if token != programs.NO_TOKEN]
                row.conversation.held.extend([request.produced[-1], *new[:-1]])
                request.produced.extend(new)
                if request.logprobs:
                    request.values.extend(values[: len(new)].tolist())
                stats.decode_tokens += len(new)

        return finish

    def take(self, slot: int, count: int) -> Cache:
        """The first `count` tokens of a slot or some more, on the host."""
        part = next(part for part in self._settings.parts if part >= count)
        rows, form = np.array([slot], np.int32), self._form(part)
        return jax.device_get(programs.take_row(self._cache, rows, form=form))

    def put(self, slot: int, row: Cache) -> None:
        """Puts into a slot what was taken out of one."""
        rows, form = np.array([slot], np.int32), self._form(row.keys[0].shape[2])
        cache = self._take_cache()
        self._cache = programs.put_row(cache, row, rows, form=form)

    def _note_prefill(self, start: float) -> None:
        self._stats.prefill_seconds += time.perf_counter() - start
        self._stats.prefill_calls += 1

    def _advance(self, row: Row) -> int:
        """Notes that a chunk of the prompt is in the cache; how many tokens it had."""
        request = row.request
        end = chunk_end(request, self._settings)
        count = end - request.done
        row.conversation.held.extend(request.prompt[request.done : end])
        request.done = end
        self._stats.prefill_tokens += count
        return count

    def _chunk_span(self, rows: Sequence[Row]) -> int:
        return self._span(max(chunk_end(row.request, self._settings) for row in rows))

    def _count(self, count: int, most: int) -> int:
        return next(rows for rows in self._settings.rows(most) if rows >= count)

    def _span(self, end: int) -> int:
        return next(span for span in self._settings.spans if span >= end)

    def _form(self, span: int, rows: Sequence[Row] = ()) -> programs.Form:
        return programs.Form(
            program=self._program,
            span=span,
            sampled=any(row.request.sampling.temperature > 0 for row in rows),
            scored=any(row.request.logprobs for row in rows),
            placed=self._placed,
        )

    def _take_cache(self):
        self._calls += 1
        cache, self._cache = self._cache, None
        if cache is None:
            cache = self._empty_cache()
        return cache

    def _empty_cache(self):
        settings = self._settings
        empty = functools.partial(
            self._program.empty_cache, settings.slots, settings.length
        )
        if self._placed is None:
            return empty()
        return jax.jit(empty, out_shardings=self._placed)()  # never whole on one device

    def _chunk(self, rows: Sequence[Row], count: int) -> programs.Chunk:
        settings = self._settings
        tokens = np.zeros((count, settings.prefill_chunk), np.int32)
        slots = np.full(count, settings.slots, np.int32)
        offsets, last, lengths, individuals = np.zeros((4, count), np.int32)
        for i, row in enumerate(rows):
            request = row.request
            part = request.prompt[request.done : chunk_end(request, settings)]
            tokens[i, : len(part)] = part
            slots[i] = row.slot
            offsets[i], last[i] = request.done, len(part) - 1
            lengths[i] = len(request.prompt)
            individuals[i] = row.conversation.individual
            row.conversation.used = self._calls
        return programs.Chunk(tokens, slots, offsets, last, lengths, individuals)

    def _prefill(self, rows: Sequence[Row], count: int, span: int):
        tokens, logprobs, self._cache = programs.prefill(
            self._weights,
            self.population,
            self._take_cache(),
            self._chunk(rows, count),
            draws_of(rows, range(len(rows)), count),
            form=self._form(span, rows),
        )
        return jax.device_get((tokens, logprobs))

    def _decode(self, rows: Sequence[Row], count: int, span: int):
        """Tokens and log-probabilities, `[len(rows), N]` each."""
        settings = self._settings
        whole = count == settings.slots
        places = [row.slot for row in rows] if whole else list(range(len(rows)))
        tokens, lengths, individuals, remaining = np.zeros((4, count), np.int32)
        # An idle row writes where nothing is read: behind the end of the cache.
        lengths[:] = settings.length
        for place, row in zip(places, rows, strict=True):
            request = row.request
            tokens[place] = request.produced[-1]
            lengths[place] = len(request.prompt) + len(request.produced) - 1
            individuals[place] = row.conversation.individual
            remaining[place] = request.limits.max_new_tokens - len(request.produced)
            row.conversation.used = self._calls
        slots = None
        if not whole:
            slots = np.full(count, settings.slots, np.int32)
            slots[: len(rows)] = [row.slot for row in rows]
        produced, logprobs, self._cache = programs.decode(
            self._weights,
            self.population,
            self._take_cache(),
            programs.Slots(tokens, lengths, individuals, remaining),
            draws_of(rows, places, count),
            slots,
            form=self._form(span, rows),
            steps=settings.decode_steps,
            stop_ids=self._stop_ids,
        )
        produced, logprobs = jax.device_get((produced, logprobs))
        return produced[places], logprobs[places]
