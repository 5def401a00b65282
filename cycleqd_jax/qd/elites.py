"""Elites of archives, their order, coverage and QD score.

Numbers come from the float64 scores of the bank. Elites are ordered by quality, then by
mean over all tasks, then by mean smooth score where there are any, then by cell index
(the lowest first). Verdicts thus go before smooth scores everywhere.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.qd.archives import Archives, occupied
from cycleqd_jax.qd.bank import Bank


class Elite(NamedTuple):
    """One occupied cell.

    Attributes:
      archive: the task, 0-based.
      cell: index into the grid.
      bins: the cell's bin of every other task, in task order, then of retention where
        it is a behaviour.
      individual: id of its elite.
      quality: the elite's score on the archive's task.
      scores: its K scores.
      smooth: its K smooth scores, NaN where there is none.
    """

    archive: int
    cell: int
    bins: tuple[int, ...]
    individual: int
    quality: float
    scores: tuple[float, ...]
    smooth: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Mean score over all tasks; it does not depend on their order."""
        return mean_score(self.scores)


class ArchiveMetrics(NamedTuple):
    """Numbers that summarise one archive.

    Attributes:
      best: the highest quality; 0 for an empty archive.
      coverage: share of cells that have an elite, 0-1.
      qd_score: sum of the elites' qualities.
    """

    best: float
    coverage: float
    qd_score: float


def mean_score(scores: Sequence[float]) -> float:
    """Mean of scores; equal sets of scores have equal means in any order."""
    return math.fsum(scores) / len(scores)


def mean_smooth(smooth: Sequence[float]) -> float:
    """Mean over the tasks that have a smooth score; minus infinity if none has."""
    known = [score for score in smooth if not math.isnan(score)]
    return math.fsum(known) / len(known) if known else -math.inf


def elites(archives: Archives, bank: Bank, task: int) -> list[Elite]:
    """All elites of one archive, in order of cells."""
    repertoire = archives.repertoires[task]
    ids, places = np.asarray(repertoire.genotypes), archives.cell_bins(task)
    found = []
    for cell in np.flatnonzero(occupied(repertoire)).tolist():
        individual = int(ids[cell])
        scores = tuple(bank.scores[individual].tolist())
        bins = tuple(places[cell].tolist())
        smooth = tuple(bank.smooth[individual].tolist())
        elite = Elite(task, cell, bins, individual, scores[task], scores, smooth)
        found.append(elite)
    return found


def rank_elites(found: Sequence[Elite]) -> list[Elite]:
    """Sorts elites, the best first: by quality, mean, smooth mean, lowest cell."""
    return sorted(
        found, key=lambda e: (-e.quality, -e.mean, -mean_smooth(e.smooth), e.cell)
    )


def best_by_mean(archives: Archives, bank: Bank) -> Elite:
    """The elite with the highest mean over all tasks, of all archives.

    Of equal elites the one with the highest mean smooth score is returned, then the
    one with the lowest id, and of its entries in several archives that of the first.

    Raises:
      ValueError: all archives are empty.
    """
    found = [e for k in range(archives.num_tasks) for e in elites(archives, bank, k)]
    if not found:
        raise ValueError("all archives are empty; offer the experts first.")
    return min(
        found,
        key=lambda e: (-e.mean, -mean_smooth(e.smooth), e.individual, e.archive),
    )


def archive_metrics(archives: Archives, bank: Bank) -> tuple[ArchiveMetrics, ...]:
    """The metrics of every archive, in task order."""
    rows = []
    for task, repertoire in enumerate(archives.repertoires):
        qualities = bank.scores[archives.ids(task), task].tolist()
        rows.append(
            ArchiveMetrics(
                best=max(qualities, default=0.0),
                coverage=len(qualities) / repertoire.fitnesses.shape[0],
                qd_score=math.fsum(qualities),
            )
        )
    return tuple(rows)
