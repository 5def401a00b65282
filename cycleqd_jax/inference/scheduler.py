"""What is computed next: a queue, the slots, and one device call after another.

Scheduling happens between device calls, never per token.
"""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import Sequence

from cycleqd_jax.inference.conversations import (
    Conversation,
    Request,
    SlotTable,
)
from cycleqd_jax.inference.device import DeviceCalls
from cycleqd_jax.inference.requests import Generation, RequestError, Scored
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.inference.slots import Row
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.inference.stops import Decoder, find_end

# Decode calls that a prompt may wait for others to fill its prefill call.
_PATIENCE = 4
# Rows that lie aside may take a quarter of the cache's bytes, where it is large.
_ASIDE_SHARE, _ASIDE_BYTES = 0.25, 512 * 2**20
# After so many seconds without a call waiting conversations may wait for each other.
_STALL_SECONDS = 5.0


class Scheduler:
    """Brings requests into slots and their tokens back.

    Attributes:
      slots: who lies where in the cache.
    """

    def __init__(
        self,
        settings: EngineSettings,
        calls: DeviceCalls,
        stats: EngineStats,
        tokenizer: Decoder,
    ):
        most_bytes = max(int(_ASIDE_SHARE * calls.cache_bytes), _ASIDE_BYTES)
        self.slots = SlotTable(settings.slots, most_bytes)
        self._settings = settings
        self._calls = calls
        self._stats = stats
        self._tokenizer = tokenizer
        self._waiting: list[tuple[int, bool, int, Conversation, Request]] = []
        self._arrivals = itertools.count()
        self._wake: asyncio.Event | None = None
        self._serving = False
        self._stalled = False
        # Calls without a decode call between them; as many as fill all slots with the
        # longest prompts may follow each other.
        self._prefills = 0
        self._most_prefills = -(-settings.slots // settings.prefill_rows) * (
            -(-settings.length // settings.prefill_chunk)
        )

    @property
    def is_busy(self) -> bool:
        """Whether requests wait or are under way."""
        waiting = any(_is_asked(*entry[-2:]) for entry in self._waiting)
        return waiting or bool(self.slots.active)

    async def ask(
        self, request: Request, conversation: Conversation
    ) -> Generation | Scored:
        """The answer to a request, which is the next turn of a conversation.

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
            self._begin(conversation)
        else:
            # Who has begun comes before who has not, so that few have to lie aside.
            rank = (conversation.priority, conversation.aside is None, request.arrival)
            entry = (*rank, conversation, request)
            heapq.heappush(self._waiting, entry)
        self._notice()
        try:
            return await request.reply
        except BaseException:
            # A caller may be cancelled at the moment of its answer.
            if conversation.request in (request, None):
                conversation.give_up(request)
            raise

    def close(self, conversation: Conversation) -> None:
        """Ends a conversation and frees its slot."""
        conversation.closed = True
        if conversation.request is not None:  # another task's turn
            _fail(conversation.request, RequestError("conversation: it was closed."))
        self.slots.release(conversation)
        self._notice()  # somebody may wait for its slot

    async def serve(self) -> None:
        """Answers requests until it is cancelled or a device call fails.

        Requests that are under way then fail; the next `serve` begins anew.

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
                wake.clear()  # before the step: what it does not see sets it again
                if not await self._step():
                    await self._sleep(wake)
        except Exception as err:
            error = err
            raise
        finally:
            self._serving = False
            self._give_up(error)

    async def _sleep(self, wake: asyncio.Event) -> None:
        """Waits until somebody asks or ends; not for long while somebody waits."""
        start = time.perf_counter()
        try:
            async with asyncio.timeout(_STALL_SECONDS if self._waiting else None):
                await wake.wait()
        except TimeoutError:
            self._stalled = True
        finally:  # the last wait of a batch ends by being cancelled
            self._stats.idle_seconds += time.perf_counter() - start

    def _give_up(self, error: BaseException) -> None:
        """Lets all requests fail that wait or are under way."""
        requests = [request for *_, request in self._waiting]
        requests += [conversation.request for conversation in self.slots.active]
        self._waiting.clear()
        self.slots.clear()
        for request in requests:
            _fail(request, error)

    async def _step(self) -> bool:
        """One device call, if there is anything to compute; says whether there was.

        It is a prefill call where that can be full or would not get fuller.
        """
        # Let every coroutine that can go on ask first, so that calls are full.
        await asyncio.sleep(0)
        self._admit()
        active = self.slots.active
        new = [c for c in active if c.request.in_prefill]
        decoding = [c for c in active if not c.request.in_prefill]
        if new and self._prefers_prefill(new, decoding):
            self._prefills += 1
            chosen = self._alike(new)[: self._settings.prefill_rows]
            scores = chosen[0].request.targets is not None
            await self._run(
                self._calls.score if scores else self._calls.prefill, chosen
            )
        elif decoding:
            self._prefills = 0
            chosen = self._alike(decoding)
            await self._run(self._calls.decode, chosen)
            for conversation in chosen:
                if conversation.request is not None:
                    conversation.request.served = next(self._arrivals)
            for conversation in new:
                if conversation.request is not None:
                    conversation.request.waited += 1
        return bool(active)

    def _prefers_prefill(
        self, new: Sequence[Conversation], decoding: Sequence[Conversation]
    ) -> bool:
        if not decoding:
            return True
        if self._prefills >= self._most_prefills:  # replies must go on, too
            return False
        if len(new) >= self._settings.prefill_rows or not self._waiting:
            return True  # waiting longer would not fill the call
        return max(c.request.waited for c in new) >= _PATIENCE

    def _alike(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """Those that can share a call with the one that has waited longest.

        Whether a program draws or gives log-probabilities may show in its last bits, so
        in a deterministic engine it never depends on what a row's neighbours want.
        """

        def kind(conversation: Conversation) -> tuple[bool, ...]:
            request = conversation.request
            scores = request.targets is not None
            if not self._settings.deterministic:
                return (scores,)
            return scores, request.sampling.temperature > 0, request.logprobs

        ordered = sorted(conversations, key=lambda c: c.request.turn)
        return [c for c in ordered if kind(c) == kind(ordered[0])]

    async def _run(self, call, conversations: Sequence[Conversation]) -> None:
        """One device call in a thread, and what it brought."""
        rows = [Row(c, c.request, c.slot) for c in conversations]
        running = asyncio.ensure_future(asyncio.to_thread(call, rows))
        try:
            finish = await asyncio.shield(running)
        except asyncio.CancelledError:
            # A device call cannot be stopped, and nothing else may use the cache.
            while not running.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({running})
            running.exception()  # heard of
            raise
        finish()
        for row in rows:
            if row.is_current:
                self._answer(row.conversation, row.request)

    def _admit(self) -> None:
        """Places waiting conversations, by priority and then by arrival."""
        while self._waiting:
            *_, conversation, request = self._waiting[0]
            if not _is_asked(conversation, request):
                heapq.heappop(self._waiting)
                continue
            if not self.slots.place(conversation):
                other = self.slots.dispensable(conversation, stalled=self._stalled)
                if other is None:
                    break
                row = self._calls.take(other.slot, len(other.held))
                self.slots.set_aside(other, row)
                self.slots.place(conversation)
                self._stats.evictions += 1
            heapq.heappop(self._waiting)
            row = self.slots.take_back(conversation)
            if row is not None:
                self._calls.put(conversation.slot, row)
            self._begin(conversation)
            self._stalled = False

    def _begin(self, conversation: Conversation) -> None:
        """Starts a turn behind what the cache has of it already."""
        conversation.reuse()
        self._stats.reused_tokens += conversation.request.reused

    def _answer(self, conversation: Conversation, request: Request) -> None:
        """Answers a request that has ended."""
        if request.in_prefill:
            return
        if request.targets is not None:
            scored = Scored(tuple(request.values), tuple(request.hits))
            self._end(conversation, scored)
            return
        ending = find_end(request.produced, request.limits, self._tokenizer)
        if ending is None:
            return
        self._end(
            conversation,
            Generation(
                text=ending.text,
                tokens=tuple(request.produced[: ending.tokens]),
                finish=ending.finish,
                prompt_tokens=len(request.prompt),
                reused_tokens=request.reused,
                logprobs=tuple(request.values[: ending.tokens]),
            ),
        )

    def _end(self, conversation: Conversation, answer: Generation | Scored) -> None:
        request, conversation.request = conversation.request, None
        request.reply.set_result(answer)

    def _notice(self) -> None:
        """Lets `serve` look at what there is to do."""
        if self._wake is not None:
            self._wake.set()


def _is_asked(conversation: Conversation, request: Request) -> bool:
    """Whether somebody still waits for the answer."""
    return conversation.request is request and not request.reply.done()


def _fail(request: Request, error: BaseException) -> None:
    if not request.reply.done():
        request.reply.set_exception(error)
