"""Evaluations that a run keeps: each is made once, and read from then on."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.base import (
    Cost,
    Evaluator,
    ReferenceScore,
    mean_scores,
)
from cycleqd_jax.evaluation.smooth import smooth_scores
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs import sums
from cycleqd_jax.runs.costs import phase_of, write_costs
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.results import (
    read_episodes,
    read_logprobs,
    write_episodes,
    write_logprobs,
)
from cycleqd_jax.tasks.base import Split, Task


class CachedEvaluator:
    """Evaluates individuals once and keeps their episodes as a part of the results."""

    def __init__(self, evaluator: Evaluator, folder: RunFolder, observer: Observer):
        self._evaluator = evaluator
        self._folder = folder
        self._observer = observer

    def scores(
        self, part: str, individuals: Mapping[str, Individual], split: Split
    ) -> dict[str, dict[str, float]]:
        """Mean scores by individual and task.

        Reads the part if it was written before; else evaluates and writes it. Nothing
        is evaluated or written for a split without problems: the result is empty.

        Args:
          part: its name in the results.
          individuals: by name.
          split: whose problems.
        """
        if not any(task.problems(split) for task in self._evaluator.tasks):
            return {}
        episodes = self._read(part, individuals, read_episodes)
        if episodes is None:
            self._observer.phase(f"{', '.join(individuals)} on {split}")
            episodes, cost = self._evaluator.evaluate(
                individuals, split, progress=self._observer.episodes
            )
            self._spend(part, "evaluate", cost)
            write_episodes(self._folder, part, episodes)
        return mean_scores(episodes)

    def further(
        self, part: str, individuals: Mapping[str, Individual], task: Task, split: str
    ) -> None:
        """Answers the `test` problems of one of the evaluator's further tasks.

        Does nothing if the part was written before.

        Args:
          part: its name in the results.
          individuals: by name.
          task: one of `Evaluator.further`.
          split: the name that the results have in place of `test`.
        """
        if self._read(part, individuals, read_episodes) is not None:
            return
        self._observer.phase(f"{', '.join(individuals)} on {task.name}")
        problems = {task.name: [problem.id for problem in task.problems(Split.TEST)]}
        episodes, cost = self._evaluator.evaluate(
            individuals,
            Split.TEST,
            problems=problems,
            progress=self._observer.episodes,
        )
        self._spend(part, "evaluate", cost)
        named = [dataclasses.replace(episode, split=split) for episode in episodes]
        write_episodes(self._folder, part, named)

    def smooth(
        self, part: str, individuals: Mapping[str, Individual], split: Split
    ) -> dict[str, tuple[float, ...]]:
        """Smooth scores by individual, K each; read or computed as by `scores`."""
        found = self._read(part, individuals, read_logprobs)
        if found is None:
            self._observer.phase(f"log-probabilities of {', '.join(individuals)}")
            found, cost = self._evaluator.score(
                individuals, split, progress=self._observer.episodes
            )
            self._spend(part, "smooth", cost)
            write_logprobs(self._folder, part, found)
        return smooth_scores(found, [task.name for task in self._evaluator.tasks])

    def texts(
        self, part: str, individuals: Mapping[str, Individual], texts: Sequence[str]
    ) -> list[ReferenceScore]:
        """Log-probabilities of plain texts; read or computed as by `scores`."""
        if not texts:
            return []
        found = self._read(part, individuals, read_logprobs)
        if found is None:
            self._observer.phase(f"{', '.join(individuals)} on plain text")
            found, cost = self._evaluator.score_texts(
                individuals, texts, progress=self._observer.episodes
            )
            self._spend(part, "texts", cost)
            write_logprobs(self._folder, part, found)
        return found

    def _spend(self, part: str, call: str, cost: Cost) -> None:
        write_costs(self._folder, part, [(call, cost)])
        self._folder.log_time(phase_of(part), cost.seconds)

    def _read(
        self,
        part: str,
        individuals: Mapping[str, Individual],
        read: Callable[[RunFolder, str], list | None],
    ) -> list | None:
        try:
            rows = read(self._folder, part)
            if rows is not None:
                sums.verified(self._folder.part("costs", part))
        except BadInputError as err:
            self._observer.note(f"{str(err).rstrip('.')}; it is made again.")
            return None
        if rows and {row.individual for row in rows} != set(individuals):
            self._observer.note(f"{part} holds other individuals; it is made again.")
            return None
        return rows
