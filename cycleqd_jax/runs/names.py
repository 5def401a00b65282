"""The individuals of a finished run, by name."""

from collections.abc import Mapping
from typing import Any

from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import (
    Genome,
    base_genome,
    scaled_sum,
    stack_genomes,
    uniform,
)
from cycleqd_jax.qd.aggregation import aggregate
from cycleqd_jax.runs.checkpoints import CycleState
from cycleqd_jax.runs.loop import individual_name
from cycleqd_jax.search.merges import SCALED, UNIFORM

AGGREGATED = "aggregated"
BEST = "best_of_archive"
BASE = "base"


def known_individuals(facts: Mapping[str, Any], state: CycleState) -> list[str]:
    """Names of all individuals of a finished run whose genomes are at hand."""
    tasks = facts["tasks"]
    kept = [individual_name(i, tasks) for i in sorted(state.bank.genomes)]
    return [AGGREGATED, BEST, BASE, UNIFORM, SCALED, *kept]


def individual_genome(
    name: str, facts: Mapping[str, Any], state: CycleState, basis: AnyBasis
) -> Genome | None:
    """The genome of an individual of a finished run.

    Args:
      name: as in the results, like "aggregated" or "child/17".
      facts: the content of `state.json`.
      state: of the finished search.
      basis: of the genomes.

    Returns:
      One genome; None for a name that is unknown or whose genome was dropped.
    """
    tasks = facts["tasks"]
    kept = {individual_name(i, tasks): g for i, g in state.bank.genomes.items()}
    if name in kept:
        return kept[name]
    if name == BEST:
        return kept[facts["best_of_archive"]]
    if name == AGGREGATED:
        rows = [facts["aggregation"][task] for task in tasks]
        genomes = stack_genomes([kept[row["individual"]] for row in rows])
        return aggregate(genomes, [row["quality"] for row in rows]).genome
    makers = {
        BASE: lambda: base_genome(basis),
        UNIFORM: lambda: uniform(basis),
        SCALED: lambda: scaled_sum(basis, facts["scaled_merge"]["factor"]),
    }
    return makers[name]() if name in makers else None
