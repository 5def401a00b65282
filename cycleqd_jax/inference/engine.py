"""The engine: many conversations of many individuals in a fixed number of slots.

Callers await `generate` or `score`, while `serve` fills free slots from a queue
and alternates prefill and decode calls. Scheduling happens between device calls, never
per token.

A deterministic engine gives the same bits for every order of arrival: its programs have
one shape each, and prompts are cut at fixed offsets. Otherwise calls shrink with the
work (fewer rows, a shorter part of the cache), which is faster when few are left.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax

from cycleqd_jax.chat import Message
from cycleqd_jax.inference.calls import DeviceCalls
from cycleqd_jax.inference.device import Device
from cycleqd_jax.inference.gradients import (
    CoefficientGradients,
    check_differentiable,
)
from cycleqd_jax.inference.population import Population
from cycleqd_jax.inference.relay import ALONE, Alone, Leader
from cycleqd_jax.inference.requests import (
    GREEDY,
    Generation,
    Limits,
    RequestError,
    Sampling,
    Scored,
    Top,
    as_int,
)
from cycleqd_jax.inference.scheduler import Scheduler
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.inference.slots import Conversation, Request
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.models.base import CausalLM, Weights
from cycleqd_jax.models.tokenizer import ChatTokenizer


class Engine:
    """Answers conversations with one set of weights or a population of them.

    Attributes:
      settings: its static sizes; `slots` and `length` are numbers.
      tokenizer: of the model.
      stats: counters of its work.
      relay: tells the other processes that share the mesh, if there are any.
    """

    def __init__(
        self,
        program: CausalLM,
        tokenizer: ChatTokenizer,
        settings: EngineSettings,
        *,
        mesh: jax.sharding.Mesh | None = None,
        relay: Alone | Leader = ALONE,
    ):
        settings.check_sized()
        self.settings = settings
        self.relay = relay
        self.stats = EngineStats()
        self.tokenizer = tokenizer
        self._device = Device(program, tokenizer.stop_ids, settings, mesh, relay)
        self._calls = DeviceCalls(self._device, settings, self.stats)
        self._program = program
        self._num_devices = 1 if mesh is None else mesh.size
        self._vocabulary = program.config.vocab_size
        self._scheduler = Scheduler(
            settings, self._device, self._calls, self.stats, tokenizer
        )

    @property
    def vocabulary_size(self) -> int:
        """The number of token ids, from 0, that prompts may have."""
        return self._vocabulary

    @property
    def slots_taken(self) -> int:
        """Slots that a conversation has, between two turns too."""
        return self._scheduler.slots.taken

    def load(self, weights: Weights, population: Population | None = None) -> None:
        """Sets the weights and, in factored mode, the population.

        Raises:
          RuntimeError: requests are waiting or running.
        """
        if self._scheduler.is_busy:
            raise RuntimeError("load was called while requests are waiting or running.")
        self._scheduler.slots.clear()
        self._device.load(weights, population or Population())

    def replace(self, population: Population) -> None:
        """Sets another population of the same size, also while requests run.

        Individuals with open conversations must be the same in both.

        Raises:
          ValueError: the size differs.
        """
        count = self._device.population.count
        if population.count != count:
            raise ValueError(
                f"population: expected {count} individuals, as loaded, got "
                f"{population.count}; call load, while no request is running."
            )
        self._device.replace(population)

    def place(self, population: Population) -> Population:
        """Shards a population, so that `load` and `replace` need not do it again."""
        return self._device.place(population)

    def run(self, program: str, inputs: tuple, span: int, wanted: dict) -> None:
        """Runs a program as the first process told it; see `Device.run`."""
        self._device.run(program, inputs, span, **wanted)

    def compile(self, progress: Callable[[str], None] | None = None) -> None:
        """Compiles programs for what is loaded; see `DeviceCalls.programs`.

        Args:
          progress: called with the name of each.
        """
        for name, call in self.programs():
            if progress is not None:
                progress(name)
            call()

    def programs(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Name and call of each program; see `DeviceCalls.programs`.

        No other device call may run meanwhile; see `quiet`.
        """
        return self._calls.programs()

    def gradients(self, basis: Basis, num_genomes: int) -> CoefficientGradients:
        """Computes gradients of genomes, in calls of a prefill call's tokens.

        Args:
          basis: of the genomes.
          num_genomes: the most that share a call.

        Raises:
          BadInputError: see `check_differentiable`; or the engine runs on a mesh.
        """
        check_differentiable(basis, self._num_devices)
        return CoefficientGradients(
            self._program,
            basis,
            num_genomes=num_genomes,
            num_tokens=self.settings.prefill_rows * self.settings.prefill_chunk,
        )

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation up to the start of the next reply.

        Args:
          messages: if the last is the assistant's, the reply continues it.
        """
        return self.tokenizer.encode_chat(messages)

    @contextlib.contextmanager
    def conversation(
        self, individual: int = 0, *, priority: int = 0
    ) -> Iterator[Conversation]:
        """Opens a dialogue, which keeps its part of the cache between turns.

        Args:
          individual: index into the loaded population; 0 without one.
          priority: the lowest is served first if slots are short.

        Raises:
          RequestError: there is no such individual.
        """
        self._check_individual(individual)
        conversation = Conversation(individual, priority)
        try:
            yield conversation
        finally:
            self._scheduler.close(conversation)

    async def generate(
        self,
        prompt: Sequence[int],
        limits: Limits,
        *,
        individual: int = 0,
        sampling: Sampling = GREEDY,
        logprobs: bool = False,
        num_top: int = 0,
        heard: Callable[[Sequence[int], Sequence[float], Sequence[Top]], None]
        | None = None,
        conversation: Conversation | None = None,
    ) -> Generation:
        """Generates the continuation of token ids, such as the reply to `encode`d ones.

        Args:
          prompt: token ids.
          limits: of the reply; the engine's length may cut it earlier.
          individual: index into the loaded population; ignored if `conversation` is
            given.
          sampling: how tokens are sampled.
          logprobs: whether to return the log-probabilities of the reply.
          num_top: how many of the most likely tokens to return in each place; every
            number compiles programs of its own.
          heard: is called with tokens, log-probabilities and most likely tokens of the
            reply so far, after each device call that did not end it.
          conversation: its next turn; None for a conversation of one turn.

        Raises:
          RequestError: the prompt is empty, or leaves no room for a reply.
        """
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
        request = Request(
            prompt,
            limits,
            future,
            sampling,
            wants_logprobs=logprobs,
            num_top=self._checked_top(num_top),
            heard=heard and (lambda r: heard(r.generated, r.logprobs, r.top)),
        )
        return await self._ask(request, individual, conversation)

    async def score(
        self,
        tokens: Sequence[int],
        start: int,
        *,
        individual: int = 0,
        num_top: int = 0,
        conversation: Conversation | None = None,
    ) -> Scored:
        """Computes log-probabilities of `tokens[start:]`, each given all before it.

        Args:
          tokens: context and continuation.
          start: where the continuation begins, >= 1.
          individual: index into the loaded population; ignored if `conversation` is
            given.
          num_top: as for `generate`.
          conversation: its cached tokens are reused as far as `tokens` begins alike.

        Raises:
          RequestError: context or continuation is empty, or they are too long.
        """
        tokens, start = self._checked("tokens", tokens), as_int("start", start)
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
        num_top = self._checked_top(num_top)
        request = Request(tokens, Limits(1), future, score_from=start, num_top=num_top)
        return await self._ask(request, individual, conversation)

    async def quiet(self) -> None:
        """Waits until no device call is running, after which `load` may be called.

        No request may be waiting or running.
        """
        await self._scheduler.quiet()

    async def serve(self) -> None:
        """Answers requests until it is cancelled or a device call fails.

        Waiting and running requests then fail; `serve` may be called again.

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
        count = max(self._device.population.count, 1)
        if not 0 <= as_int("individual", individual) < count:
            raise RequestError(
                f"individual: expected 0 to {count - 1}, got {individual}."
            )

    def _checked_top(self, number: int) -> int:
        if not 0 <= as_int("num_top", number) <= self._vocabulary:
            raise RequestError(
                f"num_top: expected 0 to {self._vocabulary}, got {number}."
            )
        return number

    def _checked(self, name: str, tokens: Sequence[int]) -> tuple[int, ...]:
        """Checks that there is a token and that all are in the vocabulary."""
        tokens = tuple(as_int(name, token) for token in tokens)
        if not tokens:
            raise RequestError(f"{name}: expected at least one token, got none.")
        for token in (min(tokens), max(tokens)):
            if not 0 <= token < self._vocabulary:
                raise RequestError(
                    f"{name}: expected tokens from 0 to {self._vocabulary - 1}, got "
                    f"{token}."
                )
        return tokens
