"""The engine: many conversations of many individuals in a fixed number of slots.

Callers await `Engine.chat`; `Engine.serve` runs beside them, fills free slots from a
queue and alternates prefill and decode calls. Scheduling happens between device calls,
never per token. Replies do not depend on the order of arrival: program shapes are
fixed, prompts are cut at fixed offsets, and no slot is taken away (see `programs`).
"""

import asyncio
import collections
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from cycleqd_jax.inference import programs
from cycleqd_jax.models.chat import ChatTokenizer
from cycleqd_jax.models.llama import LlamaProgram, Weights
from cycleqd_jax.tasks.base import Finish, Message, Reply


@dataclasses.dataclass(frozen=True)
class EngineShape:
    """The static sizes of the engine's programs.

    Attributes:
      slots: conversations in the cache at once (S).
      length: tokens of the longest conversation, a multiple of `prefill_chunk`.
      prefill_rows: conversations of one prefill call (P), at most `slots`.
      prefill_chunk: tokens of each in one prefill call (C).
      decode_steps: tokens of one decode call (N).
    """

    slots: int
    length: int
    prefill_rows: int
    prefill_chunk: int
    decode_steps: int


@dataclasses.dataclass(eq=False)
class _Request:
    """A conversation that waits for its reply."""

    prompt: Sequence[int]
    individual: int
    max_new_tokens: int
    reply: asyncio.Future
    done: int = 0  # prompt tokens in the cache
    produced: list[int] = dataclasses.field(default_factory=list)

    @property
    def in_prefill(self) -> bool:
        return self.done < len(self.prompt)


class Engine:
    """Answers conversations with one set of weights or a population of them."""

    def __init__(
        self, program: LlamaProgram, tokenizer: ChatTokenizer, shape: EngineShape
    ):
        self.shape = shape
        self._program = program
        self._tokenizer = tokenizer
        self._cache = None
        self._weights: Weights | None = None
        self._population = programs.Population()
        self._waiting: collections.deque[_Request] = collections.deque()
        self._slots: list[_Request | None] = [None] * shape.slots
        self._wake: asyncio.Event | None = None

    def load(
        self, weights: Weights, population: programs.Population | None = None
    ) -> None:
        """Sets what runs: shared weights and, in factored mode, the population.

        Raises:
          RuntimeError: while conversations are under way.
        """
        if self._waiting or any(self._slots):
            raise RuntimeError("load was called while conversations are under way.")
        self._weights = weights
        self._population = population or programs.Population()

    def compile(self) -> None:
        """Compiles the two programs for what is loaded, before anything waits."""
        self._prefill_call([])
        self._decode_call([])

    async def chat(
        self, messages: Sequence[Message], *, individual: int, max_new_tokens: int
    ) -> Reply:
        """The reply to a conversation, decoded greedily.

        A conversation that has outgrown the engine's length gets an empty reply that
        ended for its length.

        Args:
          messages: the conversation so far.
          individual: index into the loaded population; 0 without one.
          max_new_tokens: limit of the reply; the engine's length may cut it earlier.
        """
        prompt = self._tokenizer.encode_chat(messages)
        room = min(max_new_tokens, self.shape.length - len(prompt))
        if room < 1:
            return Reply("", (), len(prompt), Finish.LENGTH)
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(prompt, individual, room, future))
        if self._wake is not None:
            self._wake.set()
        return await future

    async def serve(self) -> None:
        """Answers `chat` calls until it is cancelled or a device call fails."""
        wake = self._wake = asyncio.Event()
        try:
            while True:
                if not self._waiting and not any(self._slots):
                    wake.clear()
                    await wake.wait()
                await self._step()
        finally:
            self._waiting.clear()
            self._slots = [None] * self.shape.slots

    async def _step(self) -> None:
        """One device call: prefill where it can be full or nothing else is to do."""
        # Let every coroutine that can go on ask first, so that calls are full.
        await asyncio.sleep(0)
        self._admit()
        rows = [r for r in self._slots if r is not None and r.in_prefill]
        decoding = any(r is not None and not r.in_prefill for r in self._slots)
        if rows and (len(rows) >= self.shape.prefill_rows or not decoding):
            rows = rows[: self.shape.prefill_rows]
            tokens = await asyncio.to_thread(self._prefill_call, rows)
            for row, token in zip(rows, tokens, strict=True):
                row.done = min(row.done + self.shape.prefill_chunk, len(row.prompt))
                if not row.in_prefill:
                    self._take(row, [token])
        elif decoding:
            busy = [r for r in self._slots if r is not None and not r.in_prefill]
            tokens = await asyncio.to_thread(self._decode_call, busy)
            for row, new in zip(busy, tokens, strict=True):
                self._take(row, new)

    def _admit(self) -> None:
        for slot, held in enumerate(self._slots):
            if held is None and self._waiting:
                self._slots[slot] = self._waiting.popleft()

    def _take(self, row: _Request, tokens: Sequence[int]) -> None:
        """Adds tokens to a reply and answers it when it has ended."""
        stop_ids = self._tokenizer.stop_ids
        row.produced.extend(int(t) for t in tokens if t != programs.NO_TOKEN)
        stopped = row.produced[-1] in stop_ids
        if not stopped and len(row.produced) < row.max_new_tokens:
            return
        self._slots[self._slots.index(row)] = None
        text_ids = row.produced[:-1] if stopped else row.produced
        if not row.reply.done():  # cancelled with its caller
            row.reply.set_result(
                Reply(
                    text=self._tokenizer.decode(text_ids),
                    tokens=tuple(row.produced),
                    prompt_tokens=len(row.prompt),
                    finish=Finish.STOP if stopped else Finish.LENGTH,
                )
            )

    def _fresh_cache(self):
        cache, self._cache = self._cache, None
        if cache is None:
            cache = self._program.empty_cache(self.shape.slots, self.shape.length)
        return cache

    def _prefill_call(self, requests: Sequence[_Request]) -> list[int]:
        """One chunk of each request; the next token of each, of use at its end."""
        shape = self.shape
        tokens = np.full((shape.prefill_rows, shape.prefill_chunk), 0, np.int32)
        rows = np.full(shape.prefill_rows, shape.slots, np.int32)
        offsets, last, lengths, individuals = np.zeros(
            (4, shape.prefill_rows), np.int32
        )
        for i, request in enumerate(requests):
            chunk = request.prompt[request.done : request.done + shape.prefill_chunk]
            tokens[i, : len(chunk)] = chunk
            rows[i] = self._slots.index(request)
            offsets[i], last[i] = request.done, len(chunk) - 1
            lengths[i] = len(request.prompt)
            individuals[i] = request.individual
        produced, self._cache = programs.prefill(
            self._weights,
            self._population,
            self._fresh_cache(),
            tokens,
            rows,
            offsets,
            last,
            lengths,
            individuals,
            program=self._program,
        )
        return np.asarray(produced)[: len(requests)].tolist()

    def _decode_call(self, requests: Sequence[_Request]) -> list[list[int]]:
        """A few more tokens of each request."""
        tokens, lengths, individuals, remaining = np.zeros(
            (4, self.shape.slots), np.int32
        )
        # An idle slot writes where nothing is read: behind the end of the cache.
        lengths[:] = self.shape.length
        at = [self._slots.index(request) for request in requests]
        for slot, request in zip(at, requests, strict=True):
            tokens[slot] = request.produced[-1]
            lengths[slot] = len(request.prompt) + len(request.produced) - 1
            individuals[slot] = request.individual
            remaining[slot] = request.max_new_tokens - len(request.produced)
        produced, self._cache = programs.decode(
            self._weights,
            self._population,
            self._fresh_cache(),
            programs.Slots(tokens, lengths, individuals, remaining),
            program=self._program,
            steps=self.shape.decode_steps,
            stop_ids=self._tokenizer.stop_ids,
        )
        return np.asarray(jax.device_get(produced))[at].tolist() if at else []
