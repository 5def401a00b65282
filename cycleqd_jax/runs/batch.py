"""Evaluates a batch of candidates: episodes, log-probabilities and their outcomes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cycleqd_jax.errors import RunError
from cycleqd_jax.evaluation.base import (
    Cost,
    Episode,
    Evaluator,
    Progress,
    ReferenceScore,
    Scoring,
    mean_scores,
)
from cycleqd_jax.evaluation.smooth import smooth_scores
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.runs.names import child_name
from cycleqd_jax.runs.retention import TextRetention
from cycleqd_jax.search.base import Candidates, Outcome, Status
from cycleqd_jax.tasks.base import Split


class BatchResult(NamedTuple):
    """A batch of candidates as the search learns of it and the run records it.

    Attributes:
      outcomes: one per candidate, in order.
      episodes: of all candidates.
      logprobs: of reference answers with smooth scores, and of texts with retention, of
        completely evaluated candidates.
      costs: kind of call, like "evaluate" -> its cost.
    """

    outcomes: tuple[Outcome, ...]
    episodes: Sequence[Episode]
    logprobs: Sequence[ReferenceScore]
    costs: Mapping[str, Cost]


def evaluate_batch(
    evaluator: Evaluator,
    candidates: Mapping[str, Genome],
    *,
    smooth: bool,
    retention: TextRetention | None = None,
    progress: Progress | None = None,
) -> BatchResult:
    """Evaluates candidates on `optimise`.

    A candidate with an episode on every problem is complete. One with fewer was given
    up by the evaluator: it is rejected, and its scores are means over fewer problems.

    Args:
      evaluator: scores them.
      candidates: by name.
      smooth: whether to compute smooth scores of the complete ones.
      retention: measures their retention; None measures none.
      progress: called after each episode.

    Raises:
      RunError: the environment failed, or a candidate has no episode of a task.
    """
    tasks = [task.name for task in evaluator.tasks]
    total = sum(len(task.problems(Split.OPTIMISE)) for task in evaluator.tasks)
    scoring = Scoring([], Cost(0, 0, 0.0))
    if smooth:
        evaluation, scoring = evaluator.evaluate_and_score(
            candidates, Split.OPTIMISE, progress=progress
        )
    else:
        evaluation = evaluator.evaluate(candidates, Split.OPTIMISE, progress=progress)
    costs = {"evaluate": evaluation.cost}
    problems: dict[str, dict[str, list[str]]] = {}
    for e in evaluation.episodes:
        by_task = problems.setdefault(e.individual, {})
        by_task.setdefault(e.task, []).append(e.problem)
    for name in candidates:
        if lacking := [t for t in tasks if t not in problems.get(name, ())]:
            raise RunError(
                f"evaluator: {type(evaluator).__name__}.evaluate must return episodes "
                f"of every individual on every task, but {name} has none on "
                f"{', '.join(lacking)}; mend it, then go on with --resume."
            )
    complete = {
        name: candidates[name]
        for name in candidates
        if sum(map(len, problems[name].values())) == total
    }
    logprobs, likely, kept = [], {}, {}
    if smooth:
        costs["smooth"] = scoring.cost
        logprobs = [row for row in scoring.scores if row.individual in complete]
        likely = smooth_scores(logprobs, tasks)
    if retention is not None and complete:
        scored, costs["texts"] = evaluator.score_texts(complete, retention.texts)
        logprobs, kept = [*logprobs, *scored], retention.kept(scored)
    means = mean_scores(evaluation.episodes)
    outcomes = tuple(
        Outcome(
            tuple(means[name][task] for task in tasks),
            Status.COMPLETE if name in complete else Status.REJECTED,
            {task: tuple(ids) for task, ids in problems[name].items()},
            likely.get(name),
            kept.get(name),
        )
        for name in candidates
    )
    return BatchResult(outcomes, evaluation.episodes, logprobs, costs)


def renumbered(
    candidates: Candidates, result: BatchResult, first: int
) -> tuple[Candidates, BatchResult]:
    """Candidates and their results under consecutive generations.

    Args:
      candidates: as they were asked.
      result: of `evaluate_batch`, by the names of the children of those generations.
      first: the first one's generation from now on.
    """
    ts = tuple(range(first, first + len(candidates.ts)))
    if ts == candidates.ts:
        return candidates, result
    names = {
        child_name(old): child_name(new)
        for old, new in zip(candidates.ts, ts, strict=True)
    }
    episodes, logprobs = (
        [dataclasses.replace(row, individual=names[row.individual]) for row in rows]
        for rows in (result.episodes, result.logprobs)
    )
    result = result._replace(episodes=episodes, logprobs=logprobs)
    return candidates._replace(ts=ts), result
