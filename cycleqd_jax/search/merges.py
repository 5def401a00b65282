"""Merges without a search: what CycleQD has to beat.

`uniform_merge` is model soup or task arithmetic with equal weights (arXiv 2203.05482,
2212.04089): every task vector times 1/K. `scaled_merge` is the sum of the task vectors
times the best of several factors.
"""

import math
from collections.abc import Mapping, Sequence

from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import Genome, scaled_sum, uniform

UNIFORM = "uniform_merge"
SCALED = "scaled_merge"


def scaled_name(factor: float) -> str:
    """The name of the scaled merge with one factor, like "scaled_merge/0.4"."""
    return f"{SCALED}/{factor:g}"


def merges(basis: AnyBasis, factors: Sequence[float]) -> dict[str, Genome]:
    """The uniform merge and one scaled merge per factor, by name."""
    tried = {scaled_name(factor): scaled_sum(basis, factor) for factor in factors}
    return {UNIFORM: uniform(basis)} | tried


def best_factors(
    scores: Mapping[str, Mapping[str, float]], factors: Sequence[float]
) -> tuple[float, ...]:
    """The factors whose merges have the highest mean score; ascending."""
    means = {
        factor: math.fsum(scores[scaled_name(factor)].values()) for factor in factors
    }
    return tuple(sorted(f for f in factors if means[f] == max(means.values())))
