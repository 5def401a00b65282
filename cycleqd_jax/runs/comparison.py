"""After the search: champions, the aggregated model, and all models side by side.

Champions are chosen on `validate`; `test` is only ever reported.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.local import Episode, Evaluator, Individual, mean_scores
from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import (
    Genome,
    base_genome,
    expert_genome,
    scaled_sum,
    uniform,
)
from cycleqd_jax.progress import Observer
from cycleqd_jax.qd.aggregation import (
    Champion,
    aggregate,
    champion_candidates,
    choose_champions,
)
from cycleqd_jax.qd.archives import state_fingerprint
from cycleqd_jax.qd.elites import best_by_mean, elites
from cycleqd_jax.runs.checkpoints import CycleState
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.loop import individual_name
from cycleqd_jax.runs.names import AGGREGATED, BASE, BEST
from cycleqd_jax.runs.results import read_episodes, write_episodes
from cycleqd_jax.search.merges import SCALED, UNIFORM, best_factors, merges
from cycleqd_jax.tasks.base import Split

# Parts of the results that depend on the final archives; a run that goes on to more
# generations makes them anew.
FINAL_PARTS = ("candidates-validate", "best-optimise", "final-optimise", "final-test")


class Measured:
    """Evaluates individuals once and keeps the episodes as a part of the results."""

    def __init__(self, evaluator: Evaluator, folder: RunFolder, observer: Observer):
        self._evaluator = evaluator
        self._folder = folder
        self._observer = observer

    def __call__(
        self,
        part: str,
        individuals: Mapping[str, Individual],
        split: Split,
    ) -> list[Episode]:
        """The episodes of a part: read where it was written, else made and written.

        None, and no part, for a split without problems.

        Args:
          part: its name in the results.
          individuals: name -> genome, or what makes whole weights.
          split: whose problems.
        """
        if not any(task.problems(split) for task in self._evaluator.tasks):
            return []
        episodes = self._read(part, individuals)
        if episodes is None:
            self._observer.phase(f"{', '.join(individuals)} on {split}")
            episodes = self._evaluator.evaluate(
                individuals,
                split,
                progress=self._observer.episodes,
            )
            write_episodes(self._folder, part, episodes)
        return episodes

    def _read(
        self, part: str, individuals: Mapping[str, Individual]
    ) -> list[Episode] | None:
        try:
            episodes = read_episodes(self._folder, part)
        except BadInputError as err:
            self._observer.note(f"{str(err).rstrip('.')}; it is made again.")
            return None
        if episodes and {e.individual for e in episodes} != set(individuals):
            self._observer.note(f"{part} holds other individuals; it is made again.")
            return None
        return episodes

    def copy(self, part: str, individual: str, name: str) -> None:
        """Writes the episodes of one individual on `optimise` under a new name."""
        parts = ["experts-optimise", "merges-optimise", *self._folder.batches()]
        rows = [row for p in parts for row in read_episodes(self._folder, p) or []]
        chosen = [row for row in rows if row.individual == individual]
        renamed = [dataclasses.replace(row, individual=name) for row in chosen]
        write_episodes(self._folder, part, renamed)


class Finalists(NamedTuple):
    """What the search came to.

    Attributes:
      champions: one per archive, in task order.
      beta: their weights in the aggregated model.
      aggregated: its genome.
      best: id of the elite with the best mean.
    """

    champions: tuple[Champion, ...]
    beta: tuple[float, ...]
    aggregated: Genome
    best: int


def measure_experts(
    measured: Measured, basis: AnyBasis, tasks: Sequence[str]
) -> list[Episode]:
    """Base and experts on `optimise`."""
    models = {BASE: base_genome(basis)} | _experts(basis, tasks)
    return measured("experts-optimise", models, Split.OPTIMISE)


def finalists(
    measured: Measured,
    state: CycleState,
    tasks: Sequence[str],
    *,
    candidates: int,
    choose_by: str,
) -> Finalists:
    """Chooses the champions and aggregates them.

    Args:
      measured: evaluates.
      state: of the finished search.
      tasks: names, in the order of the archives.
      candidates: elites per archive to score on `validate`; 0 takes each archive's
        best as it is.
      choose_by: see `choose_champions`.
    """
    archives, bank = state.archives, state.bank
    options = champion_candidates(archives, bank, max(candidates, 1))
    validated = None
    if candidates:
        ids = sorted({elite.individual for row in options for elite in row})
        names = {individual_name(i, tasks): bank.genome(i) for i in ids}
        episodes = measured("candidates-validate", names, Split.VALIDATE)
        scores = mean_scores(episodes)
        validated = {
            i: [scores[individual_name(i, tasks)][task] for task in tasks] for i in ids
        }
    champions = choose_champions(options, validated, by=choose_by)
    chosen = bank.gather([champion.elite.individual for champion in champions])
    result = aggregate(chosen, [champion.elite.quality for champion in champions])
    return Finalists(
        champions,
        tuple(result.beta.tolist()),
        result.genome,
        best_by_mean(archives, bank).individual,
    )


def compare(
    measured: Measured,
    folder: RunFolder,
    state: CycleState,
    basis: AnyBasis,
    tasks: Sequence[str],
    *,
    candidates: int,
    choose_by: str,
    factors: Sequence[float],
) -> None:
    """Evaluates all models and writes `archives.parquet` and `state.json`.

    All are scored on `optimise` and on `test`; `validate` only chooses champions.

    Args:
      measured: evaluates.
      folder: of the run.
      state: of the finished search.
      basis: of the genomes.
      tasks: names, in the order of the archives.
      candidates: see `finalists`.
      choose_by: see `choose_champions`.
      factors: of the scaled merge; the best on `optimise` is taken.
    """
    _write_archives(folder, state, tasks)
    final = finalists(
        measured, state, tasks, candidates=candidates, choose_by=choose_by
    )
    tried = mean_scores(
        measured("merges-optimise", merges(basis, factors), Split.OPTIMISE)
    )
    factor = _break_tie(measured, basis, best_factors(tried, factors))
    fixed = (
        {BASE: base_genome(basis)}
        | _experts(basis, tasks)
        | {UNIFORM: uniform(basis), SCALED: scaled_sum(basis, factor)}
    )
    measured.copy("scaled-optimise", f"{SCALED}/{factor:g}", SCALED)
    measured.copy("best-optimise", individual_name(final.best, tasks), BEST)
    measured("final-optimise", {AGGREGATED: final.aggregated}, Split.OPTIMISE)
    found = {BEST: state.bank.genome(final.best), AGGREGATED: final.aggregated}
    measured("baselines-test", fixed, Split.TEST)
    measured("final-test", found, Split.TEST)
    files.write_sealed(
        folder.path / "state.json",
        {
            "tasks": list(tasks),
            "bins": state.archives.bins,
            "ranges": dict(zip(tasks, state.archives.ranges, strict=True)),
            "evaluated_children": state.next_generation - 1,
            "archives_fingerprint": state_fingerprint(state.archives, state.bank),
            "aggregation": {
                task: {
                    "individual": individual_name(champion.elite.individual, tasks),
                    "quality": champion.elite.quality,
                    "validated": champion.validated,
                    "beta": beta,
                }
                for task, champion, beta in zip(
                    tasks, final.champions, final.beta, strict=True
                )
            },
            "best_of_archive": individual_name(final.best, tasks),
            "scaled_merge": {
                "factor": factor,
                "tried": {name: _mean(row) for name, row in sorted(tried.items())},
            },
        },
    )


def _break_tie(measured: Measured, basis: AnyBasis, tied: Sequence[float]) -> float:
    """Of factors that are equal on `optimise` the best on `validate`, else the lowest.

    Few discrete problems make ties common, and the baseline should not be the weaker
    for one.
    """
    if len(tied) == 1:
        return tied[0]
    genomes = merges(basis, tied)
    del genomes[UNIFORM]
    scores = mean_scores(measured("merges-validate", genomes, Split.VALIDATE))
    return best_factors(scores, tied)[0] if scores else tied[0]


def forget_final_parts(folder: RunFolder) -> None:
    """Removes what depends on the final archives, before the search goes on."""
    # First what says that the run is finished.
    (folder.path / "state.json").unlink(missing_ok=True)
    for kind in ("results", "times"):
        for part in FINAL_PARTS:
            folder.part(kind, part).unlink(missing_ok=True)


def _experts(basis: AnyBasis, tasks: Sequence[str]) -> dict[str, Genome]:
    return {
        individual_name(k, tasks): expert_genome(basis, k) for k in range(len(tasks))
    }


def _mean(by_task: Mapping[str, float]) -> float:
    return sum(by_task.values()) / len(by_task)


def _write_archives(folder: RunFolder, state: CycleState, tasks: Sequence[str]) -> None:
    rows = []
    for k, task in enumerate(tasks):
        for elite in elites(state.archives, state.bank, k):
            row = {
                "archive": task,
                "cell": elite.cell,
                "bins": list(elite.bins),
                "individual": individual_name(elite.individual, tasks),
                "quality": elite.quality,
            }
            scores = zip(tasks, elite.scores, strict=True)
            rows.append(row | {f"score/{name}": score for name, score in scores})
    files.write_table(folder.path / "archives.parquet", pa.Table.from_pylist(rows))
