"""The engine: many conversations of many individuals in a fixed number of slots.

Callers await `chat`, `generate` or `score`; `serve` runs beside them, fills free slots
from a queue and alternates prefill and decode calls. Scheduling happens between device
calls, never per token.

A deterministic engine answers the same bits for every order of arrival: its programs
have one shape each, and prompts are cut at fixed offsets. Else calls shrink with the
work (fewer rows, a shorter part of the cache), which is faster where batches thin out.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax

from cycleqd_jax.chat import Message
from cycleqd_jax.inference import programs
from cycleqd_jax.inference.conversations import Conversation, Request
from cycleqd_jax.inference.device import DeviceCalls
from cycleqd_jax.inference.requests import (
    GREEDY,
    Generation,
    Limits,
    RequestError,
    Sampling,
    Scored,
    whole,
)
from cycleqd_jax.inference.scheduler import Scheduler
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.models.llama.program import LlamaProgram, Weights
from cycleqd_jax.models.tokenizer import ChatTokenizer


class Engine:
    """Answers conversations with one set of weights or a population of them.

    Attributes:
      settings: its static sizes; `slots` and `length` are numbers.
      tokenizer: of the model.
      stats: what it did so far.
    """

    def __init__(
        self,
        program: LlamaProgram,
        tokenizer: ChatTokenizer,
        settings: EngineSettings,
        *,
        mesh: jax.sharding.Mesh | None = None,
    ):
        settings.check_sized()
        self.settings = settings
        self.stats = EngineStats()
        self.tokenizer = tokenizer
        self._calls = DeviceCalls(
            program, tokenizer.stop_ids, settings, self.stats, mesh
        )
        self._vocabulary = program.config.vocab_size
        self._scheduler = Scheduler(settings, self._calls, self.stats, tokenizer)

    def load(
        self, weights: Weights, population: programs.Population | None = None
    ) -> None:
        """Sets what runs: shared weights and, in factored mode, the population.

        Raises:
          RuntimeError: while conversations are under way.
        """
        if self._scheduler.is_busy:
            raise RuntimeError("load was called while conversations are under way.")
        self._scheduler.slots.clear()
        self._calls.load(weights, population or programs.Population())

    def replace(self, population: programs.Population) -> None:
        """Sets another population of the same size, while others run.

        Individuals that have conversations under way, also between two turns, must be
        the same in both.

        Raises:
          ValueError: the size is another.
        """
        count = self._calls.population.count
        if population.count != count:
            raise ValueError(
                f"population: expected {count} individuals, as were loaded, got "
                f"{population.count}; load it while nothing is under way."
            )
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

    def encode(
        self, messages: Sequence[Message], template: str | None = None
    ) -> list[int]:
        """The tokens of a conversation, up to where its next reply begins.

        Args:
          messages: if the last is the assistant's, it is the reply's beginning.
          template: Jinja text in place of the model's own chat template.
        """
        return self.tokenizer.encode_chat(messages, template=template)

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
            self._scheduler.close(conversation)

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
        limits = Limits(max_new_tokens, stop_strings)
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
        prompt = self._checked("prompt", prompt)
        room = self.settings.length - len(prompt)
        if room < 1:
            raise RequestError(
                f"prompt: {len(prompt)} tokens leave no room for a reply in the "
                f"engine's length of {self.settings.length}; raise engine.length."
            )
        if room < limits.max_new_tokens:
            limits = dataclasses.replace(limits, max_new_tokens=room)
        future = asyncio.get_running_loop().create_future()
        request = Request(prompt, limits, future, sampling, logprobs)
        return await self._ask(request, individual, conversation)

    async def score(
        self,
        tokens: Sequence[int],
        start: int,
        *,
        individual: int = 0,
        conversation: Conversation | None = None,
    ) -> Scored:
        """Log-probabilities of `tokens[start:]` given what comes before each.

        Args:
          tokens: context and continuation.
          start: where the continuation begins, >= 1.
          individual: index into the loaded population.
          conversation: whose tokens in the cache are used again as far as the new ones
            begin alike; it says the individual then.

        Raises:
          RequestError: there is no context or no continuation, or the engine has no
            room for them.
        """
        tokens, start = self._checked("tokens", tokens), whole("start", start)
        if len(tokens) < 2:
            raise RequestError(
                "tokens: expected a context and a continuation of one token at least, "
                "got one token."
            )
        if not 1 <= start < len(tokens):
            raise RequestError(
                f"start: expected 1 to {len(tokens) - 1}, a context and a continuation "
                f"of one token at least, got {start}."
            )
        if len(tokens) - 1 > self.settings.length:
            raise RequestError(
                f"tokens: {len(tokens)} are more than the engine's length of "
                f"{self.settings.length} holds; raise engine.length."
            )
        future = asyncio.get_running_loop().create_future()
        request = Request(tokens, Limits(1), future, targets=start)
        return await self._ask(request, individual, conversation)

    async def serve(self) -> None:
        """Answers requests until it is cancelled or a device call fails.

        Requests that are under way then fail; the next `serve` begins anew.

        Raises:
          RuntimeError: it is running already.
        """
        await self._scheduler.serve()

    async def _ask(
        self, request: Request, individual: int, conversation: Conversation | None
    ):
        if conversation is None:
            with self.conversation(individual) as conversation:
                return await self._scheduler.ask(request, conversation)
        self._check_individual(conversation.individual)
        return await self._scheduler.ask(request, conversation)

    def _check_individual(self, individual: int) -> None:
        count = max(self._calls.population.count, 1)
        if not 0 <= whole("individual", individual) < count:
            raise RequestError(
                f"individual: expected 0 to {count - 1}, got {individual}."
            )

    def _checked(self, name: str, tokens: Sequence[int]) -> tuple[int, ...]:
        """Tokens as ints that the model knows, one at least."""
        tokens = tuple(whole(name, token) for token in tokens)
        if not tokens:
            raise RequestError(f"{name}: expected at least one token, got none.")
        for token in (min(tokens), max(tokens)):
            if not 0 <= token < self._vocabulary:
                raise RequestError(
                    f"{name}: expected tokens from 0 to {self._vocabulary - 1}, got "
                    f"{token}."
                )
        return tokens
