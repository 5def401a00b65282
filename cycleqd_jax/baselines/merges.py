"""Merges without a search: what CycleQD has to beat.

`uniform_merge` is model soup or task arithmetic with equal weights (arXiv 2203.05482,
2212.04089): every task vector times 1/K. `scaled_merge` is the sum of the task vectors
times the best of several factors.
"""

from collections.abc import Mapping, Sequence

from cycleqd_jax.merging.basis import Basis
from cycleqd_jax.merging.genome import Genome, scaled_sum, uniform

UNIFORM = "uniform_merge"
SCALED = "scaled_merge"


def merges(basis: Basis, factors: Sequence[float]) -> dict[str, Genome]:
    """The uniform merge and one scaled merge per factor, by name."""
    tried = {f"{SCALED}/{factor:g}": scaled_sum(basis, factor) for factor in factors}
    return {UNIFORM: uniform(basis)} | tried


def best_factor(
    scores: Mapping[str, Mapping[str, float]], factors: Sequence[float]
) -> float:
    """The factor with the highest mean score; the smallest of equals."""

    def mean(factor: float) -> float:
        by_task = scores[f"{SCALED}/{factor:g}"]
        return sum(by_task.values()) / len(by_task)

    return max(sorted(factors), key=mean)
