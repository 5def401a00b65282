"""CycleQD: one MAP-Elites archive per task, and the active archive changes.

Child t is bred from two elites of the active archive, `(t // flip_interval) % K`, by
crossover and mutation, and then offered to every archive.

Source: CycleQD (arXiv 2410.14735), algorithm 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import numpy as np
from qdax.custom_types import RNGKey

from cycleqd_jax.files import Section, parse_section
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.noise import noise_length
from cycleqd_jax.qd.aggregation import contenders
from cycleqd_jax.qd.archives import STATUSES, Archives, empty_archives
from cycleqd_jax.qd.archives import Status as ArchiveStatus
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.cells import (
    Range,
    fixed_ranges,
    relative_ranges,
    retention_range,
)
from cycleqd_jax.qd.elites import archive_metrics, best_by_mean, elites
from cycleqd_jax.qd.operators import check_operators
from cycleqd_jax.qd.propose import propose
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.search.base import (
    Candidates,
    Champions,
    Context,
    Lineage,
    Outcome,
    Search,
    State,
    Status,
    Summary,
    add_candidates,
    to_host,
)
from cycleqd_jax.search.mutation_requests import mutated_or_request
from cycleqd_jax.search.requests import Answer, Request
from cycleqd_jax.search.seeds import check_seeds, joined, seed_candidates


@flax.struct.dataclass
class Memory:
    """CycleQD's memory beside the bank.

    Attributes:
      archives: of all tasks.
      statuses: int32 `[K]`, what became of the newest individual in every archive:
        indices into `qd.archives.STATUSES`.
    """

    archives: Archives
    statuses: np.ndarray


class CycleQD(Search):
    """The search of the paper; its memory is a `Memory`.

    Raises:
      BadInputError: there are `search_settings`, of which it knows none, or a
        user-defined operator cannot be imported or called.
    """

    def __init__(self, context: Context):
        super().__init__(context)
        parse_section("search_settings", context.options, Section)
        qd = context.qd
        noise = noise_length(1) if qd.has_noise else None
        check_seeds(qd, context.basis)
        check_operators(qd.custom_crossover, qd.custom_mutation, context.basis, noise)

    @classmethod
    def basis_form(cls, qd: QDSettings, options: Mapping[str, Any]) -> str:
        """Core form for mutation along the child's own singular directions."""
        return "core" if qd.needs_cores else "diagonal"

    @classmethod
    def uses_noise(cls, qd: QDSettings) -> bool:
        """With Gaussian mutation."""
        return qd.has_noise

    @classmethod
    def uses_train(cls, qd: QDSettings, options: Mapping[str, Any]) -> str | None:
        """With gradient mutation on known answers and with evolution strategies."""
        if not qd.ascends or cls.uses_accepted(qd, options):
            return None
        return f"qd.mutation: {qd.mutation}"

    @classmethod
    def uses_accepted(cls, qd: QDSettings, options: Mapping[str, Any]) -> bool:
        """With gradient mutation on accepted replies."""
        return qd.ascends_accepted

    @classmethod
    def uses_gradients(cls, qd: QDSettings, options: Mapping[str, Any]) -> bool:
        """With gradient mutation."""
        return qd.mutation == "gradient"

    def init(
        self,
        experts: Sequence[Genome],
        scores: np.ndarray,
        smooth: np.ndarray | None = None,
        retention: np.ndarray | None = None,
    ) -> State:
        """Offers every expert to every archive; their scores set the cells' ranges."""
        rows = [[float(score) for score in row] for row in scores]
        nothing = [None] * len(rows)
        likely = nothing if smooth is None else smooth.tolist()
        kept = nothing if retention is None else retention.tolist()
        archives = empty_archives(
            self._ranges(rows),
            self.context.qd.bins,
            smooth=smooth is not None,
            retention=None if retention is None else retention_range(kept),
        )
        bank = Bank.empty(len(self.context.tasks), len(experts))
        for k, (genome, own) in enumerate(zip(experts, rows, strict=True)):
            bank = bank.add_expert(genome, own, likely[k], kept[k])
            archives, statuses = archives.offer(k, own, likely[k], kept[k])
        return State(bank, 1, Memory(archives, _indices(statuses)))

    def _ranges(self, scores: Sequence[Sequence[float]]) -> Sequence[Range]:
        cell_range = self.context.qd.cell_range
        if cell_range == "relative":
            return relative_ranges(scores)
        given = [cell_range[entry] for entry in self.context.entries]
        return fixed_ranges(given, len(given))

    def archives(self, state: State) -> Archives:
        """The archives that parents are drawn from."""
        return state.memory.archives

    @property
    def any_order(self) -> bool:
        """Without Gaussian noise, which counts the generations before a child."""
        return not self.context.qd.has_noise

    @property
    def breeding(self) -> QDSettings:
        """The settings by which parents are drawn, crossed and mutated."""
        return self.context.qd

    def ask(
        self,
        state: State,
        key: RNGKey,
        ts: Sequence[int],
        answers: Sequence[Answer] = (),
    ) -> Candidates | Request:
        """Breeds the children of generations `ts` from the archives as they are.

        The first children are the seeds of the settings. Gradient mutation and
        evolution strategies ask for something before each step.
        """
        seeds = seed_candidates(self.context.qd.seeds, self.context.basis, ts)
        if len(seeds.ts) == len(ts):
            return seeds
        if seeds.ts:
            bred = self.ask(state, key, ts[len(seeds.ts) :], answers)
            return joined(seeds, bred) if isinstance(bred, Candidates) else bred
        got = propose(
            self.archives(state),
            state.bank,
            self.context.basis,
            key,
            ts,
            settings=self.breeding,
            experts=self.context.own_experts,
        )
        lineage = tuple(
            Lineage(tuple(parents), tuple(weights), int(active))
            for parents, weights, active in zip(
                got.parents.tolist(), got.weights.tolist(), got.active, strict=True
            )
        )
        genomes = to_host(got.genomes)
        if self.context.qd.ascends:
            genomes = mutated_or_request(
                genomes, got.active.tolist(), key, ts, answers, self.context
            )
            if not isinstance(genomes, tuple):
                return genomes
        return Candidates(tuple(ts), genomes, lineage)

    def tell(
        self, state: State, candidates: Candidates, outcomes: Sequence[Outcome]
    ) -> State:
        """Offers the children to all archives, in order of t.

        A child whose evaluation was given up is recorded and not offered. Genomes that
        no archive names are dropped.
        """
        archives, first = state.memory.archives, state.bank.next_id
        bank = add_candidates(state.bank, candidates, outcomes)
        for individual, outcome in enumerate(outcomes, first):
            statuses = (ArchiveStatus.REJECTED,) * archives.num_tasks
            if outcome.status is Status.COMPLETE:
                archives, statuses = archives.offer(
                    individual, outcome.scores, outcome.smooth, outcome.retention
                )
        bank = bank.prune(archives.kept_ids())
        memory = Memory(archives, _indices(statuses))
        return State(bank, candidates.ts[-1] + 1, memory)

    def champions(self, state: State) -> Champions:
        """Per archive its elites by quality, and the elite with the best mean."""
        archives, bank = state.memory.archives, state.bank
        found = contenders(archives, bank)
        return Champions(
            dict(zip(self.context.tasks, found, strict=True)),
            best_by_mean(archives, bank).individual,
        )

    def metrics(self, state: State) -> dict[str, float | str]:
        """`status/`, `best/`, `coverage/` and `qd_score/` of every task's archive."""
        rows = archive_metrics(state.memory.archives, state.bank)
        found: dict[str, float | str] = {}
        for task, row, status in zip(
            self.context.tasks, rows, state.memory.statuses, strict=True
        ):
            found[f"status/{task}"] = str(STATUSES[int(status)])
            found[f"best/{task}"] = row.best
            found[f"coverage/{task}"] = row.coverage
            found[f"qd_score/{task}"] = row.qd_score
        return found

    def summary(self, state: State) -> Summary:
        """The archives' bins and ranges, and a row per elite.

        With retention its range is a fact too, and rows have it.
        """
        archives, tasks = state.memory.archives, self.context.tasks
        rows = []
        for k, task in enumerate(tasks):
            for elite in elites(archives, state.bank, k):
                scores = zip(tasks, elite.scores, strict=True)
                kept = {"retention": float(state.bank.retention[elite.individual])}
                rows.append(
                    {
                        "archive": task,
                        "cell": elite.cell,
                        "bins": list(elite.bins),
                        "individual": elite.individual,
                        "quality": elite.quality,
                    }
                    | {f"score/{name}": score for name, score in scores}
                    | (kept if archives.retention else {})
                )
        ranges = dict(zip(tasks, archives.ranges, strict=True))
        more = {"retention": archives.retention} if archives.retention else {}
        return Summary({"bins": archives.bins, "ranges": ranges} | more, rows)


def _indices(statuses: Sequence[ArchiveStatus]) -> np.ndarray:
    return np.asarray([STATUSES.index(status) for status in statuses], np.int32)
