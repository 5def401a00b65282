"""The scheduler: a queue, the slots, and one device call after another."""

import asyncio
import contextlib
import heapq
import itertools
import math
import time
from collections.abc import Callable, Sequence

from cycleqd_jax.inference import programs
from cycleqd_jax.inference.calls import DeviceCalls
from cycleqd_jax.inference.device import Device
from cycleqd_jax.inference.requests import (
    Detokenizer,
    Generation,
    NotFiniteError,
    RequestError,
    Scored,
    find_end,
)
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.inference.slots import (
    BatchRow,
    Conversation,
    Request,
    SlotTable,
)
from cycleqd_jax.inference.stats import EngineStats

# Decode calls for which a prompt may wait until its prefill call is full.
_MAX_SKIPPED_CALLS = 4
# Bytes on the host for evicted slots: this share of the cache, but at least so much.
_EVICTED_SHARE, _EVICTED_BYTES = 0.25, 512 * 2**20
# Without a device call for this long the engine is stalled: see
# `SlotTable.choose_eviction`.
_STALL_SECONDS = 5.0


class Scheduler:
    """Brings requests into slots, runs device calls and answers finished requests.

    Attributes:
      slots: which conversation is in which slot.
    """

    def __init__(
        self,
        settings: EngineSettings,
        device: Device,
        calls: DeviceCalls,
        stats: EngineStats,
        tokenizer: Detokenizer,
    ):
        max_host_bytes = max(int(_EVICTED_SHARE * device.cache_bytes), _EVICTED_BYTES)
        self.slots = SlotTable(settings.slots, max_host_bytes)
        self._settings = settings
        self._device = device
        self._calls = calls
        self._stats = stats
        self._tokenizer = tokenizer
        self._waiting: list[tuple[int, bool, int, Conversation, Request]] = []
        self._arrivals = itertools.count()
        self._wake: asyncio.Event | None = None
        self._serving = False
        self._stalled = False
        self._call: asyncio.Future | None = None  # the last device call
        # Prefill calls since the last decode call. At most as many as fill all slots
        # with the longest prompts, so that replies make progress too.
        self._prefills = 0
        self._max_prefills = -(-settings.slots // settings.prefill_rows) * (
            -(-settings.length // settings.prefill_chunk)
        )

    @property
    def is_busy(self) -> bool:
        """True if requests are waiting or running."""
        waiting = any(_is_wanted(*entry[-2:]) for entry in self._waiting)
        return waiting or bool(self.slots.active)

    async def ask(
        self, request: Request, conversation: Conversation
    ) -> Generation | Scored:
        """Answers a request, the next turn of a conversation.

        Raises:
          RequestError: the conversation is closed or its last turn has not ended.
        """
        if conversation.closed:
            raise RequestError("conversation: it is closed; open another one.")
        if conversation.request is not None:
            raise RequestError("conversation: its last turn has not ended yet.")
        conversation.request = request
        request.arrival = next(self._arrivals)
        if conversation.slot is not None:
            self._start(conversation)
        else:
            # Evicted conversations come first, to keep few of them on the host.
            rank = (conversation.priority, conversation.evicted is None)
            entry = (*rank, request.arrival, conversation, request)
            heapq.heappush(self._waiting, entry)
        self._notify()
        try:
            return await request.answer
        except BaseException:
            # The caller may be cancelled just when its answer arrives.
            if conversation.request in (request, None):
                conversation.abandon(request)
            raise

    async def quiet(self) -> None:
        """Waits until no device call is running.

        The call of a request that was cancelled runs on for a while.
        """
        while self._call is not None and not self._call.done():
            await asyncio.wait({self._call})

    def close(self, conversation: Conversation) -> None:
        """Ends a conversation and frees its slot."""
        conversation.closed = True
        if conversation.request is not None:  # another asyncio task awaits it
            _fail(conversation.request, RequestError("conversation: it was closed."))
        self.slots.release(conversation)
        self._notify()  # a conversation may be waiting for the slot

    async def serve(self) -> None:
        """Answers requests until it is cancelled or a device call fails.

        Waiting and running requests then fail; `serve` may be called again.

        Raises:
          RuntimeError: it is running already.
        """
        if self._serving:
            raise RuntimeError("serve was called while it is running.")
        self._serving = True
        wake = self._wake = asyncio.Event()
        error: BaseException = RuntimeError("the engine stopped serving.")
        try:
            while True:
                wake.clear()  # first, so that no notification during the step is lost
                if not await self._step():
                    await self._sleep(wake)
        except Exception as err:
            error = err
            raise
        finally:
            self._serving = False
            self._fail_all(error)

    async def _sleep(self, wake: asyncio.Event) -> None:
        """Waits for a notification, or for a stall while conversations wait."""
        start = time.perf_counter()
        try:
            async with asyncio.timeout(_STALL_SECONDS if self._waiting else None):
                await wake.wait()
        except TimeoutError:
            self._stalled = True
        finally:  # the last sleep of a batch ends by cancellation
            self._stats.idle_seconds += time.perf_counter() - start

    def _fail_all(self, error: BaseException) -> None:
        """Fails all waiting and running requests."""
        requests = [request for *_, request in self._waiting]
        requests += [conversation.request for conversation in self.slots.active]
        self._waiting.clear()
        self.slots.clear()
        for request in requests:
            _fail(request, error)

    async def _step(self) -> bool:
        """Makes one device call; returns False if there is nothing to compute."""
        # Let every coroutine that is ready send its request, so that calls are full.
        await asyncio.sleep(0)
        self._admit()
        active = self.slots.active
        new = [c for c in active if c.request.in_prefill]
        decoding = [c for c in active if not c.request.in_prefill]
        if new and self._prefers_prefill(new, decoding):
            self._prefills += 1
            chosen = self._compatible(new)[: self._settings.prefill_rows]
            scoring = chosen[0].request.score_from is not None
            await self._run(
                self._calls.score if scoring else self._calls.prefill, chosen
            )
        elif decoding:
            self._prefills = 0
            chosen = self._compatible(decoding)
            await self._run(self._calls.decode, chosen)
            for conversation in chosen:
                if conversation.request is not None:
                    conversation.request.last_served = next(self._arrivals)
            for conversation in new:
                if conversation.request is not None:
                    conversation.request.skipped_calls += 1
        return bool(active)

    def _prefers_prefill(
        self, new: Sequence[Conversation], decoding: Sequence[Conversation]
    ) -> bool:
        if not decoding:
            return True
        if self._prefills >= self._max_prefills:
            return False
        if len(new) >= self._settings.prefill_rows or not self._waiting:
            return True  # waiting longer would not add rows
        return max(c.request.skipped_calls for c in new) >= _MAX_SKIPPED_CALLS

    def _compatible(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """Conversations that can share a call with the one served longest ago.

        Sampling and log-probabilities need other programs, whose last bits may differ.
        So in a deterministic engine a row's program never depends on the other rows.
        """

        def kind(conversation: Conversation) -> tuple[int, ...]:
            request = conversation.request
            scoring = request.score_from is not None
            settings = self._settings
            if not settings.deterministic or settings.every_call is not None:
                return (scoring,)
            samples = request.sampling.temperature > 0
            return scoring, samples, request.wants_logprobs, request.num_top

        ordered = sorted(
            conversations, key=lambda c: (c.request.last_served, c.request.arrival)
        )
        return [c for c in ordered if kind(c) == kind(ordered[0])]

    async def _run(self, call: Callable, conversations: Sequence[Conversation]) -> None:
        """Makes a device call in a thread and handles its results."""
        rows = [BatchRow(c, c.request, c.slot) for c in conversations]
        running = self._call = asyncio.ensure_future(asyncio.to_thread(call, rows))
        try:
            store_results = await asyncio.shield(running)
        except asyncio.CancelledError:
            # A device call cannot be stopped, and nothing else may use the cache.
            while not running.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({running})
            running.exception()  # else asyncio logs that it was never retrieved
            raise
        store_results()
        for row in rows:
            if row.is_current:
                self._answer(row.conversation, row.request)

    def _admit(self) -> None:
        """Gives slots to waiting conversations, by priority and then by arrival."""
        while self._waiting:
            *_, conversation, request = self._waiting[0]
            if not _is_wanted(conversation, request):
                heapq.heappop(self._waiting)
                continue
            if not self.slots.assign(conversation):
                evicted = self.slots.choose_eviction(
                    conversation, stalled=self._stalled
                )
                if evicted is None:
                    break
                cache = self._device.read_slot(evicted.slot, len(evicted.cached))
                self.slots.evict(evicted, cache)
                self.slots.assign(conversation)
                self._stats.evictions += 1
            heapq.heappop(self._waiting)
            cache = self.slots.restore(conversation)
            if cache is not None:
                self._device.write_slot(conversation.slot, cache)
            self._start(conversation)
            self._stalled = False

    def _start(self, conversation: Conversation) -> None:
        """Starts a turn after the tokens that the cache has already."""
        conversation.reuse_prefix()
        self._stats.reused_tokens += conversation.request.reused

    def _answer(self, conversation: Conversation, request: Request) -> None:
        """Answers a request if it is finished."""
        if request.in_prefill:
            return
        if programs.NOT_FINITE in request.generated[-1:] or not all(
            map(math.isfinite, request.logprobs)
        ):
            _fail(request, NotFiniteError())
            return
        if request.score_from is not None:
            answer = Scored(
                tuple(request.logprobs),
                tuple(request.greedy),
                request.reused,
                tuple(request.top),
            )
        else:
            ending = find_end(request.generated, request.limits, self._tokenizer)
            if ending is None:
                if request.heard is not None:
                    request.heard(request)
                return
            answer = Generation(
                text=ending.text,
                tokens=tuple(request.generated[: ending.num_tokens]),
                finish=ending.finish,
                prompt_tokens=len(request.prompt),
                reused_tokens=request.reused,
                logprobs=tuple(request.logprobs[: ending.num_tokens]),
                top=tuple(request.top[: ending.num_tokens]),
            )
        conversation.request = None
        request.answer.set_result(answer)

    def _notify(self) -> None:
        """Wakes `serve` up."""
        if self._wake is not None:
            self._wake.set()


def _is_wanted(conversation: Conversation, request: Request) -> bool:
    """True if a caller still waits for the answer."""
    return conversation.request is request and not request.answer.done()


def _fail(request: Request, error: BaseException) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)
