"""Replies to a request: asks the engine, all at once or piece by piece."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from cycleqd_jax.errors import CycleQDError
from cycleqd_jax.inference.requests import (
    Detokenizer,
    Generation,
    Limits,
    RequestError,
    Sampling,
    Scored,
    Top,
)
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.serving.desk import Desk
from cycleqd_jax.serving.errors import FAILED, ApiError

_HALF = "\ufffd"  # what half of a character is decoded to


class Unit(NamedTuple):
    """One reply.

    Attributes:
      prompt: token ids.
      sampling: how it is drawn.
    """

    prompt: tuple[int, ...]
    sampling: Sampling


@dataclasses.dataclass(frozen=True)
class Job:
    """The replies that a request asks for.

    Attributes:
      key: names the individual, see `Desk.seat`.
      individual: whose replies.
      units: one per reply, prompt by prompt.
      replies_each: replies to each prompt.
      limits: of every reply; None asks for none.
      logprobs: whether to compute log-probabilities of replies.
      num_top: how many of the most likely tokens to give in each place.
      scores_prompts: whether to score prompts, from their second token on.
    """

    key: str
    individual: Individual
    units: tuple[Unit, ...]
    replies_each: int
    limits: Limits | None
    logprobs: bool = False
    num_top: int = 0
    scores_prompts: bool = False


class Answer(NamedTuple):
    """The outcome of a unit.

    Attributes:
      generation: the reply; None where none was asked for.
      scored: the prompt's scores; None where they were not asked for.
    """

    generation: Generation | None
    scored: Scored | None


class Piece(NamedTuple):
    """The new part of one reply, since its last piece.

    Attributes:
      index: of the unit.
      text: what was added to the reply.
      tokens: token ids that were added, with their log-probabilities and most likely
        tokens where those were asked for.
      logprobs: of the tokens.
      top: in their places.
      answer: the whole, at its end; else None.
    """

    index: int
    text: str
    tokens: Sequence[int]
    logprobs: Sequence[float]
    top: Sequence[Top]
    answer: Answer | None


def check_prompt(prompt: Sequence[int], length: int, *, replies: bool) -> None:
    """Refuses a prompt that does not fit.

    Args:
      prompt: token ids.
      length: the engine's.
      replies: whether a reply is asked for, which needs room for one token.

    Raises:
      ApiError: it is empty or too long.
    """
    if not prompt:
        raise ApiError(400, "The prompt is empty; expected one token at least.")
    most = length - 1 if replies else length + 1
    if len(prompt) > most:
        raise ApiError(
            400,
            f"The prompt has {len(prompt)} tokens; this server takes {most} at most, "
            f"its length being {length} tokens with the reply.",
            code="context_length_exceeded",
        )


def as_api_error(err: Exception) -> ApiError:
    """The error that a client is told when its request failed by an exception."""
    if isinstance(err, ApiError):
        return err
    if isinstance(err, RequestError):
        return ApiError(400, f"The request cannot be answered: {err}")
    if isinstance(err, CycleQDError):
        text = str(err).rstrip(".")
        return ApiError(500, f"The model cannot answer: {text}.", kind=FAILED)
    return ApiError(500, f"The engine failed: {type(err).__name__}.", kind=FAILED)


async def answer_all(desk: Desk, job: Job) -> list[Answer]:
    """The answers of all units, in their order.

    Raises:
      ApiError: one of them cannot be answered; the others are cancelled.
    """
    try:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_ask(desk, job, unit)) for unit in job.units]
    except ExceptionGroup as failures:
        raise as_api_error(failures.exceptions[0]) from failures
    return [one.result() for one in asked]


async def answer_in_pieces(
    desk: Desk, job: Job, send: Callable[[Piece], Awaitable[None]]
) -> None:
    """Sends the replies piece by piece, while they are generated.

    Raises:
      ApiError: as `answer_all`.
    """
    changed = asyncio.Event()
    tokenizer = desk.engine.tokenizer
    live = [_Live(i, tokenizer, job.limits) for i in range(len(job.units))]

    async def follow(one: _Live, unit: Unit) -> None:
        def heard(*so_far: Sequence) -> None:
            one.so_far = so_far
            changed.set()

        # With scores of its prompt, which `heard` does not give, it is sent at its end.
        one.answer = await _ask(desk, job, unit, None if job.scores_prompts else heard)
        changed.set()

    try:
        async with asyncio.TaskGroup() as group:
            for pair in zip(live, job.units, strict=True):
                group.create_task(follow(*pair))
            left = list(live)
            while left:
                await changed.wait()
                changed.clear()
                for one in left:
                    piece = one.news()
                    if piece is not None:
                        await send(piece)
                left = [one for one in left if not one.is_told]
    except ExceptionGroup as failures:
        raise as_api_error(failures.exceptions[0]) from failures


async def _ask(desk: Desk, job: Job, unit: Unit, heard: Callable | None = None):
    """The answer of one unit; the desk counts its tokens as they come."""
    prompt, engine = unit.prompt, desk.engine
    scored = generation = None
    counted = 0

    def count(tokens: Sequence[int]) -> None:
        nonlocal counted
        desk.generated += len(tokens) - counted
        counted = len(tokens)

    def grown(*so_far: Sequence) -> None:
        count(so_far[0])
        if heard is not None:
            heard(*so_far)

    async with desk.seat(job.key, job.individual) as row:
        with engine.conversation(row) as conversation:
            shared = {"num_top": job.num_top, "conversation": conversation}
            if job.scores_prompts and len(prompt) > 1:
                scored = await engine.score(prompt, 1, **shared)
            if job.limits is not None:
                generation = await engine.generate(
                    prompt,
                    job.limits,
                    sampling=unit.sampling,
                    logprobs=job.logprobs,
                    heard=grown,
                    **shared,
                )
                count(generation.tokens)
    return Answer(generation, scored)


class _Live:
    """A reply that is being generated, and how much of it was told."""

    def __init__(self, index: int, tokenizer: Detokenizer, limits: Limits | None):
        self.so_far: Sequence[Sequence] = ((), (), ())
        self.answer: Answer | None = None
        self.is_told = False
        self._index = index
        self._tokenizer = tokenizer
        self._stops = limits.stop_strings if limits else ()
        self._text = self._tokens = 0  # characters and tokens that were told

    def news(self) -> Piece | None:
        """The new part since the last call; None where there is none."""
        if self.is_told:
            return None
        tokens, logprobs, top = self.so_far
        if self.answer is None:
            text = _certain(self._tokenizer.decode(tokens), self._stops)
            if len(text) <= self._text:
                return None
        else:
            self.is_told = True
            text, got = "", self.answer.generation
            if got is not None:
                text, tokens = got.text, got.tokens
                logprobs, top = got.logprobs, got.top
        start = self._tokens
        piece = Piece(
            self._index,
            text[self._text :],
            *(list(part[start:]) for part in (tokens, logprobs, top)),
            self.answer,
        )
        self._text, self._tokens = max(self._text, len(text)), len(tokens)
        return piece


def _certain(text: str, stops: Sequence[str]) -> str:
    """The beginning of a text that further tokens cannot change.

    Its end may be half of a character, or the beginning of a stop string.
    """
    text = text.rstrip(_HALF)
    held = 0
    for stop in stops:
        sizes = range(min(len(stop) - 1, len(text)), held, -1)
        held = next((size for size in sizes if text.endswith(stop[:size])), held)
    return text[: len(text) - held]
