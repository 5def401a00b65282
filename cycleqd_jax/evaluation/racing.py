"""Racing: candidates of a batch run on growing sets of problems, the worse drop out.

See `rungs.py` for who drops out when. Those that stay run on ALL problems, so that
their scores are the means that they would have had without racing: nothing is estimated
from a part. The others are rejected with the problems that they rest on.

Contested problems come first: those on which earlier complete individuals disagreed
most (variance of their scores), because the others seldom tell candidates apart.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.evaluation.base import (
    Cost,
    Episode,
    Evaluation,
    Evaluator,
    Gradients,
    ProblemIds,
    Progress,
    ReferenceScore,
    Replies,
    Scoring,
    mean_scores,
    select_problems,
    total_cost,
)
from cycleqd_jax.evaluation.rungs import (
    RacingSettings,
    make_rungs,
    planned_episodes,
    standings,
)
from cycleqd_jax.evaluation.smooth import smooth_scores
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.tasks.base import Split, Task

_NO_SCORES = Scoring([], Cost(0, 0, 0.0))


class Verdict(NamedTuple):
    """One individual's score on one problem of `optimise`, from the record."""

    individual: str
    task: str
    problem: str
    score: float


class RacingEvaluator:
    """Races individuals on all problems of `optimise`; passes everything else on.

    Attributes:
      tasks: of the evaluator.
    """

    tasks: tuple[Task, ...]

    def __init__(
        self,
        evaluator: Evaluator,
        settings: RacingSettings,
        *,
        record: Iterable[Verdict] = (),
    ):
        """Wraps an evaluator.

        Args:
          evaluator: runs the episodes.
          settings: of the races.
          record: verdicts of earlier individuals, in the order in which they came. With
            the verdicts of a run so far, a resumed run orders problems as one that was
            not interrupted.
        """
        self.tasks = evaluator.tasks
        self._evaluator = evaluator
        self._settings = settings
        self._problems = {
            task.name: [p.id for p in task.problems(Split.OPTIMISE)]
            for task in self.tasks
        }
        # (task, problem) -> number, sum and sum of squares of the scores on record.
        self._seen: dict[tuple[str, str], tuple[int, float, float]] = {}
        self._learn(record)

    def evaluate(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Runs a race on `optimise`; see `Evaluator.evaluate`.

        Individuals that were rejected have episodes on some problems only.
        """
        if split is not Split.OPTIMISE or problems is not None:
            return self._evaluator.evaluate(
                individuals, split, problems=problems, progress=progress
            )

        def run(some: Mapping[str, Individual], **more) -> tuple[Evaluation, Scoring]:
            return self._evaluator.evaluate(some, split, **more), _NO_SCORES

        return self._race(individuals, progress, run)[0]

    def evaluate_and_score(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> tuple[Evaluation, Scoring]:
        """Runs a race in which smooth scores break ties between equal verdicts."""
        if split is not Split.OPTIMISE or problems is not None:
            return self._evaluator.evaluate_and_score(
                individuals, split, problems=problems, progress=progress
            )

        def run(some: Mapping[str, Individual], **more) -> tuple[Evaluation, Scoring]:
            return self._evaluator.evaluate_and_score(some, split, **more)

        return self._race(individuals, progress, run)

    def _race(
        self,
        individuals: Mapping[str, Individual],
        progress: Progress | None,
        run: Callable[..., tuple[Evaluation, Scoring]],
    ) -> tuple[Evaluation, Scoring]:
        """A race; `run` evaluates some individuals on some problems."""
        counts = [len(ids) for ids in self._problems.values()]
        steps = make_rungs(self._settings, counts, len(individuals))
        total, order = planned_episodes(steps), self._order()
        left, parts = list(individuals), []
        episodes: list[Episode] = []
        scores: list[ReferenceScore] = []
        start = (0,) * len(counts)
        for i, step in enumerate(steps):
            part = run(
                {name: individuals[name] for name in left},
                problems=_slices(order, start, step.problems),
                progress=_shifted(progress, len(episodes), total),
            )
            parts.append(part)
            episodes += part[0].episodes
            scores += part[1].scores
            start = step.problems
            if i + 1 < len(steps):
                left = self._best(left, episodes, scores, steps[i + 1].candidates)
        episodes = self._in_order(individuals, episodes)
        self._learn(Verdict(e.individual, e.task, e.problem, e.score) for e in episodes)
        costs = [
            total_cost(one.cost for one in kind) for kind in zip(*parts, strict=True)
        ]
        return (
            Evaluation(episodes, costs[0]),
            Scoring(self._in_order(individuals, scores), costs[1]),
        )

    def score(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Scoring:
        """See `Evaluator.score`."""
        return self._evaluator.score(
            individuals, split, problems=problems, progress=progress
        )

    def score_texts(
        self,
        individuals: Mapping[str, Individual],
        texts: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> Scoring:
        """See `LocalEvaluator.score_texts`."""
        return self._evaluator.score_texts(individuals, texts, progress=progress)

    def gradient(
        self,
        genomes: Sequence[Genome],
        task_weights: np.ndarray,
        split: Split,
        *,
        problems: Sequence[ProblemIds],
        replies: Replies | None = None,
    ) -> Gradients:
        """See `Evaluator.gradient`."""
        return self._evaluator.gradient(
            genomes, task_weights, split, problems=problems, replies=replies
        )

    def _order(self) -> dict[str, list[str]]:
        """The problems of every task, the most contested first, else as they come."""

        def contested(task: str, problem: str) -> float:
            count, total, squares = self._seen.get((task, problem), (1, 0.0, 0.0))
            variance = squares / count - (total / count) ** 2
            return round(variance, 12)  # all equal: exactly 0

        return {
            task: sorted(ids, key=lambda i, task=task: -contested(task, i))
            for task, ids in self._problems.items()
        }

    def _best(
        self,
        left: Sequence[str],
        episodes: Sequence[Episode],
        scores: Sequence[ReferenceScore],
        passing: int,
    ) -> list[str]:
        """Names of those that pass a rung, in their order."""
        means = mean_scores(e for e in episodes if e.individual in left)
        standing = standings({name: tuple(means[name].values()) for name in left})
        found = smooth_scores(scores, list(self._problems))
        smooth = {name: _mean_known(found.get(name, ())) for name in left}
        ranked = sorted(left, key=lambda name: (standing[name], -smooth[name]))
        return [name for name in left if name in ranked[:passing]]

    def _in_order(self, individuals, rows) -> list:
        """Rows in the order that an evaluator promises."""
        problems = select_problems(self.tasks, Split.OPTIMISE, None)
        place = {(task.name, p.id): i for i, (task, p) in enumerate(problems)}
        names = {name: i for i, name in enumerate(individuals)}
        return sorted(
            rows, key=lambda r: (names[r.individual], place[r.task, r.problem])
        )

    def _learn(self, verdicts: Iterable[Verdict]) -> None:
        """Remembers the verdicts on individuals that ran on all problems."""
        whole = sum(map(len, self._problems.values()))
        for rows in _by_individual(verdicts):
            if len(rows) < whole:
                continue
            for _, task, problem, score in rows:
                count, total, squares = self._seen.get((task, problem), (0, 0.0, 0.0))
                more = (count + 1, total + score, squares + score**2)
                self._seen[task, problem] = more


def _mean_known(values: Sequence[float]) -> float:
    """The mean of those that are not NaN; minus infinity for none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else -math.inf


def _slices(
    order: Mapping[str, Sequence[str]], start: Sequence[int], end: Sequence[int]
) -> dict[str, list[str]]:
    """Task -> its problems from place `start` to place `end` of the order."""
    return {
        task: list(ids[low:high])
        for (task, ids), low, high in zip(order.items(), start, end, strict=True)
    }


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """A progress that counts episodes of earlier rungs, and all that are planned."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def _by_individual(verdicts: Iterable[Verdict]) -> Iterator[list[Verdict]]:
    """The rows of each individual, in order of first appearance."""
    rows: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        rows.setdefault(verdict.individual, []).append(verdict)
    yield from rows.values()
