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
        self._vocabulary = program.config.vocab_size
        self._waiting: list[tuple[int, int, Conversation, Request]] = []
        self._slots = SlotTable(shape.slots, evict=not shape.deterministic)
        self._arrivals = itertools.count()
        self._wake: asyncio.Event | None = None
        self._serving = False
        # Calls without a decode call between them; as many as fill all slots with the
        # longest prompts may follow each other.
        self._prefills = 0
        self._most_prefills = -(-shape.slots // shape.prefill_rows) * (
            -(-shape.length // shape.prefill_chunk)
        )

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

    def place(self, population: programs.Population) -> programs.Population:
        """The population as it will lie on the devices, so that it is put there once.

        Args:
          population: as for `load` and `replace`, which accept the result, too.
        """
        return self._calls.place(population)

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
        self._check_individual(individual)
        conversation = Conversation(individual, priority)
        try:
            yield conversation
        finally:
            conversation.closed = True
            if conversation.request is not None:  # another task's turn
                _fail(
                    conversation.request, RequestError("conversation: it was closed.")
                )
            self._slots.release(conversation)
            self._notice()  # somebody may wait for its slot

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
        prompt = tuple(prompt)
        room = self.shape.length - len(prompt)
        if not prompt:
            raise RequestError("prompt: expected at least one token, got none.")
        self._check_tokens("prompt", prompt)
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
        tokens = tuple(tokens)
        self._check_tokens("tokens", tokens)
        future = asyncio.get_running_loop().create_future()
        request = Request(tokens, Limits(1), future, targets=start)
        return await self._ask(request, individual, None)

    async def _ask(self, request: Request, individual, conversation):
        if conversation is None:
            with self.conversation(individual) as conversation:
                return await self._ask(request, individual, conversation)
        if conversation.closed:
            raise RequestError("conversation: it is closed; open another one.")
        if conversation.request is not None:
            raise RequestError("conversation: its last turn has not ended yet.")
        self._check_individual(conversation.individual)
        conversation.request = request
        request.arrival = next(self._arrivals)
        if conversation.slot is not None:
            self._begin(conversation)
        else:
            entry = (conversation.priority, request.arrival, conversation, request)
            heapq.heappush(self._waiting, entry)
        self._notice()
        try:
            return await request.reply
        finally:  # cancelled, maybe
            if conversation.request is request:
                conversation.request = None

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
                    start = time.perf_counter()
                    try:
                        await wake.wait()
                    finally:  # the last wait of a batch ends by being cancelled
                        self.stats.idle_seconds += time.perf_counter() - start
        except Exception as err:
            error = err
            raise
        finally:
            self._serving = False
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """Lets all requests fail that wait or are under way."""
        requests = [request for *_, request in self._waiting]
        requests += [conversation.request for conversation in self._slots.active]
        self._waiting.clear()
        self._slots.clear()
        for request in requests:
            _fail(request, error)

    async def _step(self) -> bool:
        """One device call, if there is anything to compute; says whether there was.

        It is a prefill call where that can be full or would not get fuller.
        """
        # Let every coroutine that can go on ask first, so that calls are full.
        await asyncio.sleep(0)
        self._admit()
        active = self._slots.active
        new = [c for c in active if c.request.in_prefill]
        decoding = [c for c in active if not c.request.in_prefill]
        if new and self._prefers_prefill(new, decoding):
            self._prefills += 1
            chosen = self._alike(new)[: self.shape.prefill_rows]
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
        if len(new) >= self.shape.prefill_rows or not self._waiting:
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
            if not self.shape.deterministic:
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
            if conversation.request is not request or request.reply.done():
                # Its caller gave up.
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

    def _notice(self) -> None:
        """Lets `serve` look at what there is to do."""
        if self._wake is not None:
            self._wake.set()

    def _check_individual(self, individual: int) -> None:
        count = max(self._calls.population.count, 1)
        if not 0 <= individual < count:
            raise RequestError(
                f"individual: expected 0 to {count - 1}, got {individual}."
            )

    def _check_tokens(self, name: str, tokens: Sequence[int]) -> None:
        for token in (min(tokens), max(tokens)):
            if not 0 <= token < self._vocabulary:
                raise RequestError(
                    f"{name}: expected tokens from 0 to {self._vocabulary - 1}, got "
                    f"{token}."
                )


def _fail(request: Request, error: BaseException) -> None:
    if not request.reply.done():
        request.reply.set_exception(error)
