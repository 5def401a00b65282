"""Device calls of the engine: gives a program its rows and stores the tokens."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from cycleqd_jax.inference import arrays, programs
from cycleqd_jax.inference.device import Device
from cycleqd_jax.inference.sampling import Likeliest
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.inference.slots import BatchRow, Request
from cycleqd_jax.inference.stats import EngineStats

# A device call runs in a worker thread. It returns a function that writes its results
# into the requests; the scheduler calls that function in the event loop's thread.
StoreResults = Callable[[], None]


class DeviceCalls:
    """Makes the calls of one engine: prefill, score and decode."""

    def __init__(self, device: Device, settings: EngineSettings, stats: EngineStats):
        self._device = device
        self._settings = settings
        self._stats = stats
        self._num_calls = 0

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
            call = functools.partial(self._copy_slot, span)
            yield f"eviction: {span} tokens of cache", call

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

    def _copy_slot(self, span: int) -> None:
        self._device.write_slot(0, self._device.read_slot(0, span))

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
        return [slots] if self._device.has_mesh else self._settings.row_counts(slots)

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

    def _prefill(
        self, rows: Sequence[BatchRow], num_rows: int, span: int
    ) -> tuple[np.ndarray, np.ndarray, Likeliest | None]:
        """First tokens, their log-probabilities and the most likely ones, by row."""
        inputs = (
            arrays.prefill_chunk(rows, self._settings, num_rows),
            arrays.sampling(rows, range(len(rows)), num_rows),
        )
        found = self._device.run("prefill", inputs, span, **self._wanted(rows))
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
        return jax.device_get(self._device.run("score", inputs, span, **wanted))

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
        found = self._device.run("decode", inputs, span, **self._wanted(rows))
        return jax.tree.map(lambda a: a[indices], tuple(jax.device_get(found)))


def _store_top(request: Request, top: Likeliest | None, index: tuple) -> None:
    """Adds the places at an index of `top` to a request that wants them."""
    if not request.num_top:
        return
    tokens, logprobs = (part[index][:, : request.num_top].tolist() for part in top)
    request.top.extend(
        tuple(zip(*place, strict=True)) for place in zip(tokens, logprobs, strict=True)
    )
