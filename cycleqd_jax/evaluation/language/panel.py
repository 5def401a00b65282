"""Puts questions in tokens to several individuals at once."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import NamedTuple

from cycleqd_jax.evaluation.base import Progress
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.inference.requests import GREEDY, Generation, Limits, Sampling, Scored
from cycleqd_jax.merging.individuals import Individual

_LONGEST_RUN = 64  # questions of one conversation; more would leave slots idle


class Question(NamedTuple):
    """A continuation to score, or a prompt to continue.

    Attributes:
      tokens: context and continuation, or the prompt.
      start: where the continuation begins, >= 1; None for a prompt.
      limits: where the reply to a prompt ends; None for a continuation.
      sampling: how the reply is drawn.
    """

    tokens: tuple[int, ...]
    start: int | None = None
    limits: Limits | None = None
    sampling: Sampling = GREEDY

    @property
    def room(self) -> int:
        """Tokens of the cache that it needs; the last one to score needs none."""
        return len(self.tokens) + (self.limits.max_new_tokens if self.limits else -1)


class Panel:
    """Individuals that get the same questions.

    The harness evaluates one model at a time. When it asks the first individual, all
    individuals answer, in shared passes where the mode allows it. The answers of the
    others are kept until the harness asks them.
    """

    def __init__(
        self,
        loader_for: Callable[[int], IndividualLoader],
        individuals: Mapping[str, Individual | None],
        progress: Progress = lambda done, total: None,
    ):
        """Describes the panel.

        Args:
          loader_for: gives a loader whose engine has room for so many tokens.
          individuals: by name; None is the base model.
          progress: called after each answer.
        """
        self._individuals = individuals
        self._loader_for = loader_for
        self._progress = progress
        self._answers: dict[tuple[Question, ...], dict[str, list]] = {}

    def answers(
        self, questions: Sequence[Question], name: str
    ) -> list[Scored] | list[Generation]:
        """The answers of the individual `name`, in the order of the questions.

        Raises:
          BadInputError: no engine has room for the longest question.
          RequestError: the engine refuses a question.
        """
        key = tuple(questions)
        if key and key not in self._answers:
            self._answers[key] = self._ask(key)
        return self._answers[key][name] if key else []

    def _ask(self, questions: tuple[Question, ...]) -> dict[str, list]:
        loader = self._loader_for(max(question.room for question in questions))
        slots = loader.engine.settings.slots
        total, done = len(questions) * len(self._individuals), itertools.count(1)
        # Neighbours in sorted order share a beginning: a context with several choices,
        # or the examples of a task. A run of neighbours is one conversation, which
        # computes a shared beginning once. Long runs start first, to end together.
        order = sorted(range(len(questions)), key=lambda i: questions[i].tokens)
        size = min(max(total // slots, 1), _LONGEST_RUN)
        runs = [order[first : first + size] for first in range(0, len(order), size)]
        runs.sort(key=lambda run: -sum(questions[i].room for i in run))
        # With more conversations than slots, one could lose its slot between two turns.
        free = asyncio.Semaphore(slots)

        async def converse(row: int, run: Sequence[int]) -> dict[int, object]:
            answers = {}
            async with free:
                with loader.engine.conversation(row) as conversation:
                    for i in run:
                        answers[i] = await _answer(questions[i], loader, conversation)
                        self._progress(next(done), total)
            return answers

        def jobs(name: str, row: int) -> Iterator[Coroutine]:
            return (converse(row, run) for run in runs)

        found = asyncio.run(loader.run(self._individuals, jobs))
        by_name = {}
        for name, parts in zip(self._individuals, found, strict=True):
            answers = {i: answer for part in parts for i, answer in part.items()}
            by_name[name] = [answers[i] for i in range(len(questions))]
        return by_name


async def _answer(question, loader, conversation) -> Scored | Generation:
    tokens, start, limits, sampling = question
    if limits is None:
        return await loader.engine.score(tokens, start, conversation=conversation)
    return await loader.engine.generate(
        tokens, limits, sampling=sampling, conversation=conversation
    )
