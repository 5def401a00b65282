"""MAP-Elites with one archive: the mean score is the quality, all scores the behaviour.

Children are bred as in CycleQD, by the same operators, but from one archive whose cells
are the bins of all K scores, and of retention where it is a behaviour. The task whose
expert mutates still changes with t.

Source: Mouret and Clune, "Illuminating search spaces by mapping elites"
(arXiv 1504.04909).
"""

import math
from collections.abc import Sequence

import flax.struct
import jax
import numpy as np
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire

from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.aggregation import Contender
from cycleqd_jax.qd.archives import Archives, empty_repertoire, occupied, offer
from cycleqd_jax.qd.cells import bin_index, retention_range
from cycleqd_jax.qd.elites import mean_score, mean_smooth
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.search import by_mean
from cycleqd_jax.search.base import (
    Candidates,
    Champions,
    Outcome,
    State,
    Status,
    Summary,
    add_candidates,
)
from cycleqd_jax.search.cycleqd import CycleQD

_ARCHIVE = "mean"


@flax.struct.dataclass
class Memory:
    """Its memory beside the bank.

    Attributes:
      repertoire: the archive, with `bins ** K` cells; like those of `qd.archives`.
      ranges: float64 `[K, 2]`, the score ranges of the cells. With retention there is
        one more, and `bins ** (K + 1)` cells.
    """

    repertoire: MapElitesRepertoire
    ranges: np.ndarray


class MapElites(CycleQD):
    """One-archive MAP-Elites; its memory is a `Memory`.

    Raises:
      BadInputError: as for `CycleQD`.
    """

    @classmethod
    def cells(cls, qd: QDSettings, num_tasks: int) -> int:
        """One archive of all K scores."""
        return qd.bins**num_tasks

    def init(
        self,
        experts: Sequence[Genome],
        scores: np.ndarray,
        smooth: np.ndarray | None = None,
        retention: np.ndarray | None = None,
    ) -> State:
        """Offers every expert to the archive; their scores set the cells' ranges."""
        rows = [[float(score) for score in row] for row in scores]
        nothing = [None] * len(rows)
        likely = nothing if smooth is None else smooth.tolist()
        kept = nothing if retention is None else retention.tolist()
        bank = by_mean.expert_bank(experts, scores, smooth, retention)
        ranges = [*self._ranges(rows)]
        if retention is not None:
            ranges.append(retention_range(kept))
        ranges, count = np.asarray(ranges, np.float64), len(ranges)
        repertoire = empty_repertoire(
            self.context.qd.bins, count, count, smooth=smooth is not None
        )
        for k, own in enumerate(rows):
            repertoire = self._offer(repertoire, ranges, k, own, likely[k], kept[k])
        return State(bank, 1, Memory(jax.device_get(repertoire), ranges))

    def _offer(
        self,
        repertoire: MapElitesRepertoire,
        ranges: np.ndarray,
        individual: int,
        scores: Sequence[float],
        smooth: Sequence[float] | None,
        retention: float | None,
    ) -> MapElitesRepertoire:
        bins, quality = self.context.qd.bins, mean_score(scores)
        if retention is not None:
            scores = (*scores, retention)
        place = [
            bin_index(score, (low, high), bins)
            for score, (low, high) in zip(scores, ranges.tolist(), strict=True)
        ]
        likely = mean_smooth(smooth or ())
        return offer(repertoire, individual, place, quality, scores, likely)[0]

    def archives(self, state: State) -> Archives:
        """The one archive in place of every task's."""
        same = (state.memory.repertoire,) * len(self.context.tasks)
        ranges = tuple(map(tuple, state.memory.ranges[: len(same)].tolist()))
        return Archives(same, ranges, self.context.qd.bins)

    def tell(
        self, state: State, candidates: Candidates, outcomes: Sequence[Outcome]
    ) -> State:
        """Offers the children to the archive, in order of t."""
        memory, first = state.memory, state.bank.next_id
        bank = add_candidates(state.bank, candidates, outcomes)
        repertoire = memory.repertoire
        for individual, outcome in enumerate(outcomes, first):
            if outcome.status is Status.COMPLETE:
                repertoire = self._offer(
                    repertoire,
                    memory.ranges,
                    individual,
                    outcome.scores,
                    outcome.smooth,
                    outcome.retention,
                )
        bank = bank.prune(_ids(repertoire))
        memory = Memory(jax.device_get(repertoire), memory.ranges)
        return State(bank, candidates.ts[-1] + 1, memory)

    def champions(self, state: State) -> Champions:
        """One group: the elites by their mean score."""
        best = self._elites(state)
        contenders = tuple(
            Contender(i, by_mean.mean_of(state.bank, i), None) for i in best
        )
        return Champions({_ARCHIVE: contenders}, best[0])

    def _elites(self, state: State) -> list[int]:
        """Ids of the elites, the best first."""
        ids = set(_ids(state.memory.repertoire))
        return [i for i in by_mean.ranked(state.bank) if i in ids]

    def metrics(self, state: State) -> dict[str, float | str]:
        """Best scores (`by_mean.metrics`), and the archive's coverage and QD score."""
        filled = occupied(state.memory.repertoire)
        means = [by_mean.mean_of(state.bank, i) for i in self._elites(state)]
        return by_mean.metrics(state.bank, self.context.tasks) | {
            f"coverage/{_ARCHIVE}": float(filled.mean()),
            f"qd_score/{_ARCHIVE}": float(np.sum(means)),
        }

    def summary(self, state: State) -> Summary:
        """A row per elite."""
        repertoire, tasks = state.memory.repertoire, self.context.tasks
        ids, rows = np.asarray(repertoire.genotypes), []
        places = np.rint(repertoire.centroids).astype(int)
        for cell in np.flatnonzero(occupied(repertoire)).tolist():
            individual = int(ids[cell])
            scores = state.bank.scores[individual].tolist()
            kept = float(state.bank.retention[individual])
            rows.append(
                {
                    "archive": _ARCHIVE,
                    "cell": cell,
                    "bins": places[cell].tolist(),
                    "individual": individual,
                    "quality": mean_score(scores),
                }
                | {f"score/{t}": s for t, s in zip(tasks, scores, strict=True)}
                | ({} if math.isnan(kept) else {"retention": kept})
            )
        return Summary({}, rows)


def _ids(repertoire: MapElitesRepertoire) -> list[int]:
    """Ids of the elites, in order of cells."""
    return np.asarray(repertoire.genotypes)[occupied(repertoire)].tolist()
