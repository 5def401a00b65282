"""The evaluator on a Ray cluster: many local evaluators, one on each share of a host.

What travels are individuals and problems by name, and episodes; never weights: every
evaluator has base and basis of its own. A call is cut into parts, which any evaluator
may take, and their results come back in the order that an `Evaluator` promises. A part
that is lost with its evaluator is done again, from its start and as a whole. So where
an engine is deterministic, the result is that of the local evaluator, bit for bit.
"""

import concurrent.futures
import copy
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cycleqd_jax.evaluation.actor import Source
from cycleqd_jax.evaluation.base import (
    Cost,
    Evaluation,
    Gradients,
    ProblemIds,
    Progress,
    Replies,
    Scoring,
    select_problems,
    total_cost,
)
from cycleqd_jax.evaluation.pool import Pool
from cycleqd_jax.evaluation.ray_settings import RaySettings
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.tasks.base import Split, Task


class RayEvaluator:
    """Evaluates on a cluster; use it as a context manager.

    Its methods may be called from several threads at once. An individual that is loaded
    from files, like an adapter, must have them on every host.
    """

    def __init__(
        self,
        settings: RaySettings,
        source: Source,
        *,
        tasks: Sequence[Task],
        in_order: bool,
        check: Callable[[Any], str | None],
        note: Callable[[str], None],
        further: Sequence[Task] = (),
    ):
        """Connects to nothing yet.

        Args:
          settings: of the cluster.
          source: makes one evaluator, with the same tasks; it may have `score_texts`.
          tasks: in the order of the archives.
          in_order: whether one call at a time is to be made, with all evaluators.
          check: see `Pool`.
          note: see `Pool`.
          further: tasks that the search does not see.
        """
        self._tasks, self.further = tuple(tasks), tuple(further)
        self._pool = Pool(settings, source, check=check, note=note)
        self._in_order = in_order
        self._is_lane = False

    def __enter__(self) -> "RayEvaluator":
        """Connects to the cluster; see `Pool`."""
        self._pool.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._pool.__exit__(*error)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks in the order of the archives; the hosts have the same."""
        return self._tasks

    @property
    def lanes(self) -> int:
        """The number of calls that are best made at once."""
        return 1 if self._in_order else self._pool.size

    @property
    def lane(self) -> "RayEvaluator":
        """The same for one of several calls at once: each stays in one piece."""
        lane = copy.copy(self)
        lane._is_lane = True
        return lane

    def compile(self, progress: Callable[[str], None] | None = None) -> None:
        """Waits until the evaluators have loaded and compiled; see `Pool.start`."""
        self._pool.start()
        if progress is not None:
            progress(f"{self._pool.size} evaluators on the cluster")

    def evaluate(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Runs one episode per individual and problem; see `Evaluator.evaluate`."""
        return Evaluation(
            *self._rows("evaluate", individuals, split, problems, progress)
        )

    def score(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> Scoring:
        """Log-probabilities of reference answers; see `Evaluator.score`."""
        return Scoring(*self._rows("score", individuals, split, problems, progress))

    def evaluate_and_score(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        *,
        problems: ProblemIds | None = None,
        progress: Progress | None = None,
    ) -> tuple[Evaluation, Scoring]:
        """Episodes and log-probabilities; see `Evaluator.evaluate_and_score`."""
        start = time.perf_counter()
        parts = self._parts(individuals, split, problems)
        found = self._call("evaluate_and_score", parts, progress)
        evaluations, scorings = zip(*found, strict=True) if found else ((), ())
        cost = _cost([one.cost for one in evaluations], start)
        return (
            Evaluation([row for one in evaluations for row in one.episodes], cost),
            Scoring(
                [row for one in scorings for row in one.scores],
                total_cost(one.cost for one in scorings),
            ),
        )

    def score_texts(
        self,
        individuals: Mapping[str, Individual],
        texts: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> Scoring:
        """Log-probabilities of plain texts; see `LocalEvaluator.score_texts`."""
        start = time.perf_counter()
        parts = [
            _Part((some, list(texts)), {}, len(some) * len(texts))
            for some in _divided(individuals, self._free())
        ]
        found = self._call("score_texts", parts, progress)
        scores = [score for part in found for score in part.scores]
        return Scoring(scores, _cost([part.cost for part in found], start))

    def gradient(
        self,
        genomes: Sequence[Genome],
        task_weights: np.ndarray,
        split: Split,
        *,
        problems: Sequence[ProblemIds],
        replies: Replies | None = None,
    ) -> Gradients:
        """Gradients by coefficients; see `Evaluator.gradient`."""
        start, genomes = time.perf_counter(), jax.device_get(list(genomes))
        parts = []
        for i, j in _cuts(len(genomes), self._free()):
            arguments = (genomes[i:j], task_weights[i:j], split)
            named = {"problems": list(problems[i:j]), "replies": replies}
            parts.append(_Part(arguments, named, 0))
        losses, gradients, costs = zip(*self._call("gradient", parts), strict=True)
        return Gradients(
            np.concatenate(losses),
            np.concatenate(gradients),
            _cost(costs, start),
        )

    def _rows(
        self,
        method: str,
        individuals: Mapping[str, Individual],
        split: Split,
        problems: ProblemIds | None,
        progress: Progress | None,
    ) -> tuple[list[Any], Cost]:
        """Rows of individuals on problems."""
        start = time.perf_counter()
        parts = self._parts(individuals, split, problems)
        found = self._call(method, parts, progress)
        rows = [row for part in found for row in part[0]]
        return rows, _cost([part.cost for part in found], start)

    def _parts(
        self,
        individuals: Mapping[str, Individual],
        split: Split,
        problems: ProblemIds | None,
    ) -> list["_Part"]:
        """Individuals and problems in parts, in order.

        Where there are more evaluators than individuals, problems are divided too.
        """
        chosen = select_problems(self._tasks, split, problems, self.further)
        free = self._free()
        each = max(1, free // max(len(individuals), 1))
        parts = []
        for some in _divided(individuals, free):
            for i, j in _cuts(len(chosen), each):
                ids: dict[str, list[str]] = {}
                for task, problem in chosen[i:j]:
                    ids.setdefault(task.name, []).append(problem.id)
                size = len(some) * (j - i)
                parts.append(_Part((some, split), {"problems": ids}, size))
        return parts

    def _free(self) -> int:
        """The number of evaluators for one call."""
        return 1 if self._is_lane else self._pool.size

    def _call(
        self, method: str, parts: Sequence["_Part"], progress: Progress | None = None
    ) -> list[Any]:
        """The results of all parts, in order."""
        if not parts:
            return []
        done, total = 0, sum(part.size for part in parts)
        threads = concurrent.futures.ThreadPoolExecutor(len(parts))
        try:
            running = {
                threads.submit(self._pool.call, method, *part.args, **part.kwargs): part
                for part in parts
            }
            for future in concurrent.futures.as_completed(running):
                future.result()
                done += running[future].size
                if progress is not None:
                    progress(done, total)
            return [future.result() for future in running]
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


class _Part(NamedTuple):
    """One evaluator's share of a call; `size` is its number of rows."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    size: int


def _cuts(count: int, parts: int) -> list[tuple[int, int]]:
    """Begin and end of at most `parts` nearly equal parts, none of them empty."""
    parts = min(parts, count)
    ends = [count * i // parts for i in range(parts + 1)] if parts else [0]
    return list(itertools.pairwise(ends))


def _divided(
    individuals: Mapping[str, Individual], parts: int
) -> list[dict[str, Individual]]:
    """Individuals in parts, in order; their arrays are NumPy's."""
    names = list(individuals)
    return [
        {name: jax.device_get(individuals[name]) for name in names[i:j]}
        for i, j in _cuts(len(names), parts)
    ]


def _cost(costs: Sequence[Cost], start: float) -> Cost:
    """The cost of all parts; wall time is that of the call."""
    return total_cost(costs)._replace(seconds=time.perf_counter() - start)
