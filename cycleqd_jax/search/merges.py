"""Merges without a search: what CycleQD has to beat.

`uniform_merge` is model soup or task arithmetic with equal weights (arXiv 2203.05482,
2212.04089): every task vector times 1/K. `scaled_merge` is the sum of the task vectors
times the best of several factors.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from cycleqd_jax.files import Section, each_once
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome, scaled_sum, uniform

UNIFORM = "uniform_merge"
SCALED = "scaled_merge"

Factor = Annotated[float, Field(gt=0, le=10)]


class BaselinesSettings(Section):
    """The merges that the result is compared with.

    Attributes:
      scaled_merge_factors: factors of the sum of task vectors; the best on `optimise`
        is the `scaled_merge`.
    """

    scaled_merge_factors: Annotated[
        tuple[Factor, ...],
        Field(strict=False, min_length=1),
        AfterValidator(each_once),
    ] = (0.3, 0.4, 0.5, 0.6, 0.8)


def scaled_name(factor: float) -> str:
    """The name of the scaled merge with one factor, like "scaled_merge/0.4"."""
    short = f"{factor:g}"  # of factors that agree in six digits it would be the same
    return f"{SCALED}/{short if float(short) == factor else factor}"


def merges(basis: Basis, factors: Sequence[float]) -> dict[str, Genome]:
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
