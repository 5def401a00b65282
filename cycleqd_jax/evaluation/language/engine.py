"""Questions in tokens, put to the engine for several individuals at once.

Questions are sorted by their tokens, so that neighbours begin alike: the choices of one
question share its context, the questions of one task its examples. A run of neighbours
is one conversation, whose turns compute only what the turn before does not have.
"""

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from cycleqd_jax.inference.background import Tasks
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.requests import (
    GREEDY,
    Generation,
    Limits,
    Sampling,
    Scored,
)
from cycleqd_jax.inference.slots import Conversation

# Neighbours in one conversation, at most: a longer run would leave slots idle at the
# end, a shorter one computes what all of them share more often.
_LONGEST_RUN = 16


class Likelihood(NamedTuple):
    """How likely is a continuation?

    Attributes:
      tokens: context and continuation.
      start: where the continuation begins, >= 1.
    """

    tokens: tuple[int, ...]
    start: int

    @property
    def room(self) -> int:
        """Tokens of the cache that it needs."""
        return len(self.tokens) - 1  # the last one is only a target

    @property
    def context(self) -> tuple[int, ...]:
        """What comes before the continuation."""
        return self.tokens[: self.start]


class Continuation(NamedTuple):
    """What comes next?

    Attributes:
      tokens: of the prompt.
      limits: where it ends.
      sampling: how it is drawn.
    """

    tokens: tuple[int, ...]
    limits: Limits
    sampling: Sampling = GREEDY

    @property
    def room(self) -> int:
        """Tokens of the cache that it needs."""
        return len(self.tokens) + self.limits.max_new_tokens

    @property
    def context(self) -> tuple[int, ...]:
        """The prompt."""
        return self.tokens


Question = TypeVar("Question", Likelihood, Continuation)
Answer = Scored | Generation
Progress = Callable[[int, int], None]  # (answers so far, answers in all)
EngineFor = Callable[[int], Engine]  # a loaded engine of at least so many tokens


@dataclasses.dataclass(frozen=True)
class Panel:
    """Individuals that are asked the same questions.

    Attributes:
      engine_for: gives the engine, with the individuals loaded, for conversations of so
        many tokens.
      individuals: their places in the engine's population.
      progress: is told of every answer.
    """

    engine_for: EngineFor
    individuals: tuple[int, ...] = (0,)
    progress: Progress | None = None

    def ask(self, questions: Sequence[Question]) -> list[list[Answer]]:
        """Everybody's answers.

        Args:
          questions: of one kind.

        Returns:
          One list per individual, in the order of the questions.

        Raises:
          BadInputError: no engine has room for the longest question.
        """
        if not questions:
            return [[] for _ in self.individuals]
        engine = self.engine_for(max(question.room for question in questions))
        runs = _runs(questions, engine, len(self.individuals))
        return asyncio.run(self._ask(engine, questions, runs))

    async def _ask(self, engine, questions, runs) -> list[list[Answer]]:
        answers: list[list] = [[None] * len(questions) for _ in self.individuals]
        # Long ones first: at the end there are short ones to fill the slots with.
        waiting = collections.deque(
            (row, run) for run in runs for row in range(len(self.individuals))
        )
        done, total = 0, len(self.individuals) * len(questions)

        async def work() -> None:
            nonlocal done
            while waiting:
                row, run = waiting.popleft()
                with engine.conversation(self.individuals[row]) as conversation:
                    for place in run:
                        answers[row][place] = await _answer(
                            engine, questions[place], conversation
                        )
                        done += 1
                        if self.progress is not None:
                            self.progress(done, total)

        tasks = Tasks()
        tasks.start(engine.serve())  # it only ends by failing
        workers = [tasks.start(work()) for _ in range(engine.settings.slots)]
        everything = asyncio.ensure_future(asyncio.wait(workers))
        try:
            await asyncio.wait(
                {everything, tasks.failed}, return_when="FIRST_COMPLETED"
            )
            if tasks.failed.done():
                tasks.failed.result()
        finally:
            everything.cancel()
            await tasks.stop()
        return answers


async def _answer(
    engine: Engine, question: Question, conversation: Conversation
) -> Answer:
    if isinstance(question, Continuation):
        return await engine.generate(
            question.tokens,
            question.limits,
            sampling=question.sampling,
            conversation=conversation,
        )
    return await engine.score(
        question.tokens, question.start, conversation=conversation
    )


def _runs(
    questions: Sequence[Question], engine: Engine, individuals: int
) -> list[list[int]]:
    """The places of the questions, neighbours together, in the order to begin with.

    Questions with the same context stay together; of others so many as leave work for
    half the rows of a prefill call, or for all slots where replies are decoded.
    """
    order = sorted(range(len(questions)), key=lambda place: questions[place].tokens)
    decodes = isinstance(questions[0], Continuation)
    groups: list[list[int]] = []
    for place in order:
        context = questions[place].context
        if groups and questions[groups[-1][0]].context == context:
            groups[-1].append(place)
        else:
            groups.append([place])
    settings = engine.settings
    busy = settings.slots if decodes else max(settings.prefill_rows // 2, 1)
    size = min(max(len(groups) * individuals // busy, 1), _LONGEST_RUN)
    runs = [
        [place for group in groups[first : first + size] for place in group]
        for first in range(0, len(groups), size)
    ]
    return sorted(runs, key=lambda run: -sum(questions[place].room for place in run))
