"""Merges without a search: what CycleQD has to beat.

`uniform_merge` is model soup or task arithmetic with equal weights (arXiv 2203.05482,
2212.04089): every task vector times 1/K. `scaled_merge` is the sum of the task vectors
times the best of several factors. Every run is compared with these two.

`search: merge` makes a run of its own of one closed form: its candidates are one merge
per density and factor, so that it is tuned on the same problems, and by the same rules,
as the result of a search.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

import jax
import numpy as np
import pydantic
from pydantic import AfterValidator, Field
from qdax.custom_types import RNGKey

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import Section, each_once, parse_section
from cycleqd_jax.merging.closed_forms import (
    CORE_FORMS,
    check_residuals,
    closed_form,
    scaled,
    weighted_sum,
)
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome, scaled_sum, uniform
from cycleqd_jax.merging.individuals import Recipe, RecipeMethod
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.search import by_mean
from cycleqd_jax.search.base import (
    Candidates,
    Champions,
    Context,
    Lineage,
    Outcome,
    Search,
    State,
    add_candidates,
)

UNIFORM = "uniform_merge"
SCALED = "scaled_merge"

Factor = Annotated[float, Field(gt=0, le=10)]
Density = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=-10, le=10)]
_WEIGHTED = ("sum", *get_args(RecipeMethod))
_BY_SIGN = ("ties", "dare_ties")


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


class MergeSettings(Section):
    """`search_settings` of a closed-form merge.

    Attributes:
      method: "sum" (in a conditioned basis the RegMean merge), "uniform", "tsv_m" and
        "iso_c" (`merging.closed_forms`), "ties", "dare", "dare_ties" and "slerp"
        (`merging.recipes`).
      factors: of the merged task vector; each is tried.
      densities: shares of the elements that TIES and DARE keep; each is tried. None
        stands for 0.2 and 0.5; other methods have none.
      weights: factors of the experts' task vectors, one each, in the order of the
        experts; of "slerp" two that make 1. None stands for 1 each. Other methods than
        "sum", TIES, DARE and "slerp" have none.
      normalise: of "ties" and "dare_ties", as in `Recipe`.
    """

    method: Literal["sum", "uniform", "tsv_m", "iso_c", RecipeMethod] = "sum"
    factors: Annotated[
        tuple[Factor, ...],
        Field(strict=False, min_length=1),
        AfterValidator(each_once),
    ] = (0.3, 0.5, 0.7, 1.0, 1.3, 1.6)
    densities: (
        Annotated[
            tuple[Density, ...],
            Field(strict=False, min_length=1),
            AfterValidator(each_once),
        ]
        | None
    ) = None
    weights: Annotated[tuple[Weight, ...], Field(strict=False, min_length=1)] | None = (
        None
    )
    normalise: bool = True

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        thinned = [name for name in get_args(RecipeMethod) if name != "slerp"]
        if self.densities is not None and self.method not in thinned:
            raise ValueError(
                f"densities are given, but {self.method} keeps all elements; leave "
                f"them out, or choose {', '.join(thinned)}"
            )
        if self.weights is not None and self.method not in _WEIGHTED:
            raise ValueError(
                f"weights are given, but {self.method} treats all experts alike; leave "
                f"them out, or choose {', '.join(_WEIGHTED)}"
            )
        if self.method == "slerp" and self.weights is not None:
            if len(self.weights) != 2 or not math.isclose(sum(self.weights), 1.0):
                raise ValueError(
                    f"weights of slerp are {list(self.weights)}; expected two that "
                    "make 1"
                )
        if not self.normalise and self.method not in _BY_SIGN:
            raise ValueError(
                f"normalise is false, but {self.method} divides by nothing; leave it "
                f"out, or choose {' or '.join(_BY_SIGN)}"
            )
        return self

    @property
    def is_recipe(self) -> bool:
        """True if no genome can say the merge."""
        return self.method in get_args(RecipeMethod)

    @property
    def tried(self) -> tuple[tuple[float | None, float], ...]:
        """The density, None without any, and the factor of each candidate in order."""
        densities: tuple[float | None, ...] = (None,)
        if self.is_recipe:
            densities = self.densities or (0.2, 0.5)
        if self.method == "slerp":
            densities = (1.0,)
        return tuple(itertools.product(densities, self.factors))


class MergeSearch(Search):
    """A closed form: candidate t is the merge with the t-th density and factor.

    Raises:
      BadInputError: `search_settings` are not those of `MergeSettings`, there are more
        generations than candidates, the experts are not as many as it needs, or the
        basis has residuals that the merge cannot have.
    """

    def __init__(self, context: Context):
        super().__init__(context)
        self._settings = parse_section(
            "search_settings", context.options, MergeSettings
        )
        count = len(self._settings.tried)
        if context.qd.num_generations > count:
            raise BadInputError(
                f"qd.num_generations is {context.qd.num_generations}, but "
                f"search_settings of merge give {count} candidates, one for each "
                f"factor and density; set it to {count}, or give more factors."
            )
        check_residuals(self._settings.method, context.basis)
        experts, weights = context.basis.expert_names, self._settings.weights
        if weights is not None and len(weights) != len(experts):
            raise BadInputError(
                f"search_settings.weights: has {len(weights)} numbers; expected one "
                f"for each of the experts {', '.join(experts)}."
            )
        if self._settings.method == "slerp" and len(experts) != 2:
            raise BadInputError(
                "search_settings.method: slerp goes from one expert to another, but "
                f"there are {len(experts)}: {', '.join(experts)}; give two."
            )

    @classmethod
    def basis_form(cls, qd: QDSettings, options: Mapping[str, Any]) -> str:
        """Core form for merges of singular directions."""
        return "core" if options.get("method") in tuple(CORE_FORMS) else "diagonal"

    @classmethod
    def is_seeded(cls, options: Mapping[str, Any]) -> bool:
        """True for DARE, which drops elements at random."""
        return str(options.get("method")).startswith("dare")

    def init(
        self,
        experts: Sequence[Genome],
        scores: np.ndarray,
        smooth: np.ndarray | None = None,
    ) -> State:
        """The experts are the first individuals."""
        return State(by_mean.expert_bank(experts, scores, smooth), 1)

    def ask(self, state: State, key: RNGKey, ts: Sequence[int]) -> Candidates:
        """The merges of generations `ts`; a recipe's seed is from `fold_in(key, t)`."""
        found = tuple(self._candidate(key, t) for t in ts)
        return Candidates(tuple(ts), found, (Lineage(),) * len(found))

    def _candidate(self, key: RNGKey, t: int) -> Genome | Recipe:
        density, factor = self._settings.tried[t - 1]
        if density is None:
            return scaled(self._unscaled, factor)
        seed = int(jax.random.bits(jax.random.fold_in(key, t)))
        own = self._settings
        return Recipe(
            own.method, factor, density, seed, own.weights, normalise=own.normalise
        )

    @functools.cached_property
    def _unscaled(self) -> Genome:
        """Made once: it depends on the basis alone, and takes an SVD per matrix."""
        if self._settings.weights is not None:
            return weighted_sum(self.context.basis, self._settings.weights)
        return closed_form(self._settings.method, self.context.basis)

    def tell(
        self, state: State, candidates: Candidates, outcomes: Sequence[Outcome]
    ) -> State:
        """Records the candidates; genomes of all but the best are dropped."""
        bank = by_mean.prune(add_candidates(state.bank, candidates, outcomes))
        return State(bank, candidates.ts[-1] + 1)

    def champions(self, state: State) -> Champions:
        """One group: the candidates by their mean score."""
        return by_mean.champions(_without_experts(state.bank))

    def metrics(self, state: State) -> dict[str, float | str]:
        """The best scores of the candidates; see `by_mean.metrics`."""
        return by_mean.metrics(_without_experts(state.bank), self.context.tasks)


def _without_experts(bank: Bank) -> Bank:
    """The bank whose experts are not ranked, so that none is taken for the merge.

    The experts stay while no candidate has been evaluated completely.
    """
    complete = bank.complete.copy()
    complete[: bank.num_experts] = False
    return dataclasses.replace(bank, complete=complete) if complete.any() else bank
