"""The engine: many conversations of many individuals in a fixed number of slots.

Callers await `chat`, `generate` or `score`; `serve` runs beside them, fills free slots
from a queue and alternates prefill and decode calls. Scheduling happens between device
calls, never per token.

A deterministic engine answers the same bits for every order of arrival: its programs
have one shape each, prompts are cut at fixed offsets, and no slot is taken away. Else
calls shrink with the work (fewer rows, a shorter part of the cache), which is faster
where batches thin out.
"""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import jax

from cycleqd_jax.inference import programs
from cycleqd_jax.inference.calls import DeviceCalls, EngineShape, Row
from cycleqd_jax.inference.conversations import Conversation, Request, SlotTable
from cycleqd_jax.inference.requests import (
    GREEDY,
    Generation,
    Limits,
    RequestError,
    Sampling,
    Scored,
)
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.inference.stops import find_end
from cycleqd_jax.models.chat import ChatTokenizer
from cycleqd_jax.models.llama import LlamaProgram, Weights
from cycleqd_jax.tasks.base import Message

__all__ = ["Engine", "EngineShape"]

# Decode calls that a prompt may wait for others to fill its prefill call.
_PATIENCE = 4


class Engine:
    """Answers conversations with one set of weights or a population of them.

    Attributes:
      shape: its static sizes.
      stats: what it did so far.
    """

    def __init__(
        self,
        program: LlamaProgram,
        tokenizer: ChatTokenizer,
        shape: EngineShape,
        *,
        mesh: jax.sharding.Mesh | None = None,
    ):
        self.shape = shape
        self.stats = EngineStats()
        self._tokenizer = tokenizer
        self._calls = DeviceCalls(program, tokenizer.stop_ids, shape, self.stats, mesh)
        self._waiting: list[tuple[int, int, Conversation]] = []
        self._slots = SlotTable(shape.slots, evict=not shape.deterministic)
        self._arrivals = itertools.count()
        self._wake: asyncio.Event | None = None

    def load(
        self, weights: Weights, population: programs.Population | None = None
    ) -> None:
        """Sets what runs: shared weights and, in factored mode, the population.

        Raises:
          RuntimeError: while conversations are under way.
        """
        if self._waiting or self._slots.active:
            raise RuntimeError("load was called while conversations are under way.")
        self._slots.clear()
        self._calls.load(weights, population or programs.Population())

    def replace(self, population: programs.Population) -> None:
        """Sets another population of the same size, while others run.

        Individuals that have conversations under way must be the same in both.
        """
        self._calls.replace(population)

    def compile(self, progress: Callable[[str], None] | None = None) -> None:
        """Compiles the programs for what is loaded, before anything waits.

        Args:
          progress: is told of each.
        """
        self._calls.compile(progress or (lambda name: None))

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation, up to where its next reply begins."""
        return self._tokenizer.encode_chat(messages)

    @contextlib.contextmanager
    def conversation(
        self, individual: int = 0, *, priority: int = 0
    ) -> Iterator[Conversation]:
        """A dialogue that keeps its place in the cache between its turns.

        Args:
          individual: index into the loaded population; 0 without one.
          priority: the lowest is served first where slots are short.

        Raises:
          RequestError: there is no such individual.
        """
        count = self._calls.population.count
        if not 0 <= individual < max(count, 1):
            raise RequestError(
                f"individual: expected 0 to {max(count, 1) - 1}, got {individual}."
            )
        conversation = Conversation(individual, priority)
        try:
            yield conversation
        finally:
            self._slots.release(conversation)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        individual: int = 0,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_strings: Sequence[str] = (),
        logprobs: bool = False,
        conversation: Conversation | None = None,
    ) -> Generation:
        """The reply to a conversation.

        Args:
          messages: the conversation so far.
          individual: index into the loaded population; not looked at where there is a
            `conversation`.
          max_new_tokens: limit of the reply; the engine's length may cut it earlier.
          sampling: how tokens are drawn.
          stop_strings: texts that end the reply.
          logprobs: whether the log-probabilities of its tokens are wanted.
          conversation: of which this is the next turn; None for one that ends with
            this reply.

        Raises:
          RequestError: the prompt has no token, or no room is left for a reply.
        """
        limits = Limits(max_new_tokens, tuple(stop_strings))
        return await self.generate(
            self.encode(messages),
            limits,
            individual=individual,
            sampling=sampling,
            logprobs=logprobs,
            conversation=conversation,
        )

    async def generate(
        self,
        prompt: Sequence[int],
        limits: Limits,
        *,
        individual: int = 0,
        sampling: Sampling = GREEDY,
        logprobs: bool = False,
        conversation: Conversation | None = None,
    ) -> Generation:
        """The continuation of token ids; arguments and errors as for `chat`."""
        room = self.shape.length - len(prompt)
        if not prompt:
            raise RequestError("prompt: expected at least one token, got none.")
        if room < 1:
            raise RequestError(
                f"prompt: {len(prompt)} tokens leave no room for a reply in the "
                f"engine's length of {self.shape.length}; raise engine.length."
            )
        if room < limits.max_new_tokens:
            limits = Limits(room, limits.stop_strings)
        future = asyncio.get_running_loop().create_future()
        request = Request(prompt, limits, future, sampling, logprobs)
        return await self._ask(request, individual, conversation)

    async def score(
        self, tokens: Sequence[int], start: int, *, individual: int = 0
    ) -> Scored:
        """Log-probabilities of `tokens[start:]` given what comes before each.

        Args:
          tokens: context and continuation.
          start: where the continuation begins, >= 1.
          individual: index into the loaded population.

        Raises:
          RequestError: there is no context or no continuation, or the engine has no
            room for them.
        """
        if not 1 <= start < len(tokens):
            raise RequestError(
                f"start: expected 1 to {len(tokens) - 1}, a context and a continuation "
                f"of one token at least, got {start}."
            )
        if len(tokens) - 1 > self.shape.length:
            raise RequestError(
                f"tokens: {len(tokens)} are more than the engine's length of "
                f"{self.shape.length} holds; raise engine.length."
            )
        future = asyncio.get_running_loop().create_future()
        request = Request(tokens, Limits(1), future, targets=start)
        return await self._ask(request, individual, None)

    async def _ask(self, request: Request, individual, conversation):
        if conversation is None:
            with self.conversation(individual) as conversation:
                return await self._ask(request, individual, conversation)
        if conversation.request is not None:
            raise RequestError("conversation: its last turn has not ended yet.")
        conversation.request = request
        if conversation.slot is not None:
            self._begin(conversation)
        else:
            entry = (conversation.priority, next(self._arrivals), conversation)
            heapq.heappush(self._waiting, entry)
        if self._wake is not None:
            self._wake.set()
        try:
            return await request.reply
        finally:  # cancelled, maybe
            conversation.request = None

    async def serve(self) -> None:
        """Answers requests until it is cancelled or a device call fails."""
        wake = self._wake = asyncio.Event()
        try:
            while True:
                if not self._waiting and not self._slots.active:
                    wake.clear()
                    start = time.perf_counter()
                    await wake.wait()
                    self.stats.idle_seconds += time.perf_counter() - start
                await self._step()
        finally:
            self._waiting.clear()
            self._slots.clear()

    async def _step(self) -> None:
        """One device call: prefill where it can be full or would not get fuller."""
        # Let every coroutine that can go on ask first, so that calls are full.
        await asyncio.sleep(0)
        self._admit()
        active = self._slots.active
        scored = [c for c in active if c.request.targets is not None]
        new = [c for c in active if c.request.in_prefill and c not in scored]
        decoding = [c for c in active if not c.request.in_prefill]
        rows = self.shape.prefill_rows
        if scored:
            await self._run(self._calls.score, scored[:rows])
        elif new and (len(new) >= rows or not decoding or self._is_impatient(new)):
            await self._run(self._calls.prefill, new[:rows])
        elif decoding:
            await self._run(self._calls.decode, decoding)
            for conversation in new:
                conversation.request.waited += 1

    def _is_impatient(self, new: Sequence[Conversation]) -> bool:
        """Whether waiting longer would not fill a prefill call."""
        if not self._waiting:
            return True
        return max(c.request.waited for c in new) >= _PATIENCE

    async def _run(self, call, conversations: Sequence[Conversation]) -> None:
        """One device call in a thread, and what it brought."""
        rows = [Row(c, c.request, c.slot) for c in conversations]
        finish = await asyncio.to_thread(call, rows)
        finish()
        for row in rows:
            if row.is_current:
                self._answer(row.conversation, row.request)

    def _admit(self) -> None:
        """Places waiting conversations, by priority and then by arrival."""
        while self._waiting:
            conversation = self._waiting[0][2]
            if conversation.request is None:  # its caller gave up
                heapq.heappop(self._waiting)
                continue
            if not self._slots.place(conversation):
                break
            heapq.heappop(self._waiting)
            self._begin(conversation)
        self.stats.evictions = self._slots.evictions

    def _begin(self, conversation: Conversation) -> None:
        """Starts a turn behind what the cache has of it already."""
        conversation.reuse()
        self.stats.reused_tokens += conversation.request.reused

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
