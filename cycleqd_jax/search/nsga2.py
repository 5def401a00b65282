"""NSGA-II: a population that is sorted by Pareto fronts of the K task scores.

Children are bred as in CycleQD, by the same operators, but the parents are members of
the population: member i of n, in order of fronts and crowding distance, is drawn with
the probability that it wins a binary tournament, `(2 (n - i) - 1) / n^2`, i from 0; the
second is another one. A child joins the population, and of one that is too large the
last member leaves.

QDax's `NSGA2Repertoire` is not used: where several members of the last front have equal
scores, which discrete scores often have, its crowding distances are NaN, and it keeps
the member with the smallest distance first.

Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II"
(IEEE Transactions on Evolutionary Computation 6, 2002).
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire

from cycleqd_jax.files import Section, parse_section
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.archives import SCORES, Archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.elites import mean_smooth
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.search import by_mean
from cycleqd_jax.search.base import (
    Candidates,
    Champions,
    Context,
    Outcome,
    State,
    Status,
    Summary,
    add_candidates,
)
from cycleqd_jax.search.cycleqd import CycleQD

_NOBODY = -1


class NSGA2Settings(Section):
    """`search_settings` of NSGA-II.

    Attributes:
      population: individuals that are kept.
    """

    population: Annotated[int, Field(ge=2, le=10_000)] = 40


class NSGA2(CycleQD):
    """NSGA-II; its memory is the ids of the population, int32 `[N]`, the best first.

    Places without a member hold -1.

    Raises:
      BadInputError: as for `CycleQD`, or `search_settings` are not `NSGA2Settings`.
    """

    def __init__(self, context: Context):
        super().__init__(context._replace(options={}))
        self.context = context
        settings = parse_section("search_settings", context.options, NSGA2Settings)
        self._size = settings.population

    def init(
        self,
        experts: Sequence[Genome],
        scores: np.ndarray,
        smooth: np.ndarray | None = None,
    ) -> State:
        """The experts are the first population."""
        bank = by_mean.expert_bank(experts, scores, smooth)
        return State(bank, 1, self._survivors(range(bank.next_id), bank))

    def _survivors(self, ids: Sequence[int], bank: Bank) -> np.ndarray:
        ids = np.sort(np.asarray(ids, np.int32))
        smooth = [mean_smooth(row) for row in bank.smooth[ids].tolist()]
        ids = ids[rank(bank.scores[ids], np.asarray(smooth))][: self._size]
        return np.pad(ids, (0, self._size - ids.size), constant_values=_NOBODY)

    @property
    def breeding(self) -> QDSettings:
        """The config's settings, with parents drawn by the chances of a tournament."""
        return self.context.qd.model_copy(update={"selection": "weight"})

    def archives(self, state: State) -> Archives:
        """The population in place of every task's archive, with each one's chances."""
        ids, tasks = state.memory, len(self.context.tasks)
        there = ids != _NOBODY
        chances = 2 * (there.sum() - np.arange(ids.size)) - 1.0
        no_place = np.zeros((ids.size, 1), np.float32)
        population = MapElitesRepertoire(
            genotypes=ids,
            fitnesses=np.where(there, 0.0, -np.inf).astype(np.float32)[:, None],
            descriptors=no_place,
            centroids=no_place,
            extra_scores={SCORES: chances.astype(np.float32)[:, None]},
            keys_extra_scores=(SCORES,),
        )
        return Archives((population,) * tasks, ((0.0, 1.0),) * tasks, 1)

    def tell(
        self, state: State, candidates: Candidates, outcomes: Sequence[Outcome]
    ) -> State:
        """Lets the children join the population one by one, in order of t."""
        population, first = state.memory, state.bank.next_id
        bank = add_candidates(state.bank, candidates, outcomes)
        for individual, outcome in enumerate(outcomes, first):
            if outcome.status is Status.COMPLETE:
                members = population[population != _NOBODY]
                population = self._survivors([*members, individual], bank)
        members = population[population != _NOBODY].tolist()
        return State(by_mean.prune(bank, members), candidates.ts[-1] + 1, population)

    def champions(self, state: State) -> Champions:
        """One group: all individuals by their mean score."""
        return by_mean.champions(state.bank)

    def metrics(self, state: State) -> dict[str, float | str]:
        """Best scores (`by_mean.metrics`), and the first front's size as `front`."""
        members = state.memory[state.memory != _NOBODY]
        front = fronts(state.bank.scores[members]) == 0
        found = by_mean.metrics(state.bank, self.context.tasks)
        return found | {"front": float(front.sum())}

    def summary(self, state: State) -> Summary:
        """A row per member of the population."""
        tasks, rows = self.context.tasks, []
        for place, individual in enumerate(state.memory.tolist()):
            if individual == _NOBODY:
                break
            scores = zip(tasks, state.bank.scores[individual].tolist(), strict=True)
            rows.append(
                {
                    "archive": "population",
                    "cell": place,
                    "bins": [],
                    "individual": individual,
                    "quality": by_mean.mean_of(state.bank, individual),
                }
                | {f"score/{task}": score for task, score in scores}
            )
        return Summary({}, rows)


def rank(scores: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """Indices of members from the best to the worst, int `[n]`.

    By front, then from the largest crowding distance to the smallest, then from the
    highest smooth score to the lowest, then by index.

    Args:
      scores: float64 `[n, K]`; more is better.
      smooth: float64 `[n]`, mean smooth scores.
    """
    front = fronts(scores)
    crowding = np.zeros(len(scores))
    for number in range(front.max() + 1):
        members = front == number
        crowding[members] = crowding_distances(scores[members])
    return np.lexsort((np.arange(len(scores)), -smooth, -crowding, front))


def fronts(scores: np.ndarray) -> np.ndarray:
    """The number of each member's front, int `[n]`; 0 is the Pareto front."""
    no_less = (scores[:, None] >= scores[None]).all(-1)
    dominates = no_less & ~no_less.T  # [i, j]: i is at least as good, and j is not
    front = np.full(len(scores), -1)
    number = 0
    while (left := front < 0).any():
        front[left & ~dominates[left].any(0)] = number
        number += 1
    return front


def crowding_distances(scores: np.ndarray) -> np.ndarray:
    """The crowding distance of each member of one front, float64 `[n]`.

    The sum over scores of the distance between a member's two neighbours, as a share of
    the range; infinite at both ends. A score that all members share does not count.
    """
    found = np.zeros(len(scores))
    for column in scores.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        width = values[-1] - values[0]
        if width == 0:
            continue
        found[order[[0, -1]]] = np.inf
        found[order[1:-1]] += (values[2:] - values[:-2]) / width
    return found
