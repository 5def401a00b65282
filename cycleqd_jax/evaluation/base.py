"""The door for evaluators: who scores individuals on problems.

An evaluator gets individuals by name and returns plain rows: verdicts of episodes, or
log-probabilities of reference answers. Each call also says what it cost.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.tasks.base import Problem, Split, Task

if TYPE_CHECKING:  # evaluators of other models have no engine
    from cycleqd_jax.inference.stats import EngineStats

Progress = Callable[[int, int], None]  # (problems done, problems in all)
ProblemIds = Mapping[str, Sequence[str]]  # task name -> ids of its problems
Replies = Mapping[str, Mapping[str, str]]  # task name -> problem id -> a reply


@dataclasses.dataclass(frozen=True)
class Episode:
    """One individual's attempt at one problem.

    Attributes:
      individual: its name.
      split: the problem's split.
      task: the task's name.
      problem: the problem's id.
      outcome: a `tasks.base.Outcome`; "scored" where a score is no verdict on right or
        wrong, but a share.
      score: 0.0 to 1.0.
      answer: what was executed, or a mask as text.
      reply: the last reply in full.
      explanation: one line on the verdict.
      turns: number of replies.
      prompt_tokens: tokens of the last prompt.
      tokens: token ids of all replies, in order.
      finish: how the last reply ended.
      replies: all replies in full, so that the episode can be replayed.
      metrics: further verdicts by name, see `tasks.base.Result`.
      seconds: wall time from the first prompt to the verdict, waiting included.
    """

    individual: str
    split: str
    task: str
    problem: str
    outcome: str
    score: float
    answer: str
    reply: str
    explanation: str
    turns: int
    prompt_tokens: int
    tokens: tuple[int, ...]
    finish: str
    replies: tuple[str, ...]
    metrics: Mapping[str, float]
    seconds: float


@dataclasses.dataclass(frozen=True)
class ReferenceScore:
    """The log-probability of one problem's reference answer under one individual.

    Attributes:
      individual: its name.
      split: the problem's split.
      task: the task's name.
      problem: the problem's id.
      logprob: natural logarithm of the probability of all reference replies, end of
        turn included; None where the task has no reference answer.
      tokens: number of tokens that `logprob` is the sum over; 0 without a reference.
    """

    individual: str
    split: str
    task: str
    problem: str
    logprob: float | None
    tokens: int


class Cost(NamedTuple):
    """The cost of one call.

    Attributes:
      tokens_forward: tokens that went through the model: prompts, as far as they were
        not in the cache, and replies; of a segmentation model images. Equal calls give
        equal numbers.
      tokens_backward: tokens that gradients were computed for.
      seconds: wall time.
      engine: counters of the engine during the call; None without an engine.
    """

    tokens_forward: int
    tokens_backward: int
    seconds: float
    engine: "EngineStats | None" = None


def total_cost(costs: Iterable[Cost]) -> Cost:
    """The sum of some calls' costs; without engine counters if one has none."""
    costs = list(costs)
    engines = [cost.engine for cost in costs]
    known = bool(engines) and None not in engines
    return Cost(
        sum(cost.tokens_forward for cost in costs),
        sum(cost.tokens_backward for cost in costs),
        sum(cost.seconds for cost in costs),
        functools.reduce(operator.add, engines) if known else None,
    )


class Evaluation(NamedTuple):
    """Attributes: `episodes` in the order of `Evaluator.evaluate`, and their `cost`."""

    episodes: list[Episode]
    cost: Cost


class Scoring(NamedTuple):
    """Attributes: `scores` in the order of `Evaluator.score`, and their `cost`."""

    scores: list[ReferenceScore]
    cost: Cost


class Gradients(NamedTuple):
    """Gradients of losses on reference answers, by coefficients of genomes.

    Attributes:
      losses: nats per token, float64 `[P, K]`; NaN for a task without problems.
      gradients: of each genome's weighted loss, float32 `[P, G]`.
      cost: of the call.
    """

    losses: np.ndarray
    gradients: np.ndarray
    cost: Cost


class Evaluator(Protocol):
    """Scores individuals.

    One that serves several calls at once, from several threads, also has `lanes`, the
    number of calls that are best made at a time, and `lane`, the evaluator to make them
    with.

    Attributes:
      tasks: in the order of the archives.
      further: tasks that the search does not see. A call runs their problems only where
        its `problems` names them; an evaluator may have no such attribute.
    """

    tasks: tuple[Task, ...]

    def evaluate(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Runs one episode per individual and problem.

        Args:
          individuals: by name.
          split: whose problems.
          problems: task name -> ids of the problems to run; a task that is not named
            runs none. None runs all problems of all tasks.
          progress: called after each episode.

        Returns:
          Episodes in the order of individuals, then of tasks and problems.

        Raises:
          BadInputError: a task or a problem id is unknown.
          RunError: the environment failed; nothing is scored.
        """
        ...

    def score(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Scoring:
        """Computes the log-probability of each problem's reference answer.

        Arguments, order and errors are those of `evaluate`.
        """
        ...

    def evaluate_and_score(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> tuple[Evaluation, Scoring]:
        """Does what `evaluate` and `score` do, with prompts computed once for both.

        Arguments, orders and errors are those of `evaluate`. The first result has the
        cost of both but for the tokens of the second, whose cost has no seconds.
        """
        ...

    def gradient(
        self,
        genomes: Sequence[Genome],
        task_weights: np.ndarray,
        split: Split,
        *,
        problems: Sequence[ProblemIds],
        replies: Replies | None = None,
    ) -> Gradients:
        """Computes gradients of the loss on right answers.

        The loss of genome p is `sum_k task_weights[p, k] * loss_k`, with `loss_k` the
        mean over its problems of task k of the negative log-probability per token; a
        task without problems has no part in it.

        Args:
          genomes: P genomes, without noise.
          task_weights: float32 `[P, K]`.
          split: whose problems.
          problems: P entries: task name -> ids of problems with a right answer.
          replies: right answers of these problems; None takes reference answers.

        Raises:
          BadInputError: a task or a problem id is unknown, a problem has no right
            answer, or the genomes have no gradient.
          RunError: a loss or a gradient is not finite.
        """
        ...


def select_problems(
    tasks: Sequence[Task],
    split: Split,
    problems: ProblemIds | None,
    further: Sequence[Task] = (),
) -> list[tuple[Task, Problem]]:
    """The problems that a call names, in the order of tasks and of their problems.

    Args:
      tasks: all their problems are meant where no problems are named.
      split: whose problems.
      problems: task name -> ids.
      further: tasks that may be named.

    Raises:
      BadInputError: a task or a problem id is unknown.
    """
    if problems is not None:
        tasks = (*tasks, *further)
    found = [(task, problem) for task in tasks for problem in task.problems(split)]
    if problems is None:
        return found
    known = {task.name: {p.id for t, p in found if t is task} for task in tasks}
    for name, ids in problems.items():
        if name not in known:
            raise BadInputError(
                f"problems: {name!r} is not one of the tasks {', '.join(known)}."
            )
        if unknown := sorted(set(ids) - known[name]):
            raise BadInputError(
                f"problems: {unknown[0]!r} is not a problem of {name} on {split}."
            )
    wanted = {name: set(ids) for name, ids in problems.items()}
    return [(t, p) for t, p in found if p.id in wanted.get(t.name, ())]


def mean_scores(episodes: Iterable[Episode]) -> dict[str, dict[str, float]]:
    """Mean score by individual and task, summed in float64."""
    scores: dict[str, dict[str, list[float]]] = {}
    for e in episodes:
        scores.setdefault(e.individual, {}).setdefault(e.task, []).append(e.score)
    return {
        name: {task: sum(values) / len(values) for task, values in by_task.items()}
        for name, by_task in scores.items()
    }


def mean_losses(scores: Iterable[ReferenceScore]) -> dict[str, dict[str, float]]:
    """Mean negative log-probability per token, in nats, by individual and task.

    Every problem weighs the same, however long its answer. Problems without a reference
    answer do not count; a task that has only such is left out.
    """
    losses: dict[str, dict[str, list[float]]] = {}
    for s in scores:
        by_task = losses.setdefault(s.individual, {})
        if s.logprob is not None:
            by_task.setdefault(s.task, []).append(-s.logprob / s.tokens)
    return {
        name: {task: sum(values) / len(values) for task, values in by_task.items()}
        for name, by_task in losses.items()
    }
