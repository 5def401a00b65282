"""Random search: every candidate is a sum of the experts with random factors.

    tau = sum_k u_k tau_k,     u_k ~ Uniform[low, high] independently

It is the baseline that any search has to beat with the same number of children.
"""

from collections.abc import Sequence
from typing import Self

import jax
import numpy as np
import pydantic
from qdax.custom_types import RNGKey

from cycleqd_jax.files import Section, parse_section
from cycleqd_jax.merging.genome import Genome, linear_combination
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


class RandomSettings(Section):
    """`search_settings` of random search.

    Attributes:
      low: smallest factor of an expert's task vector.
      high: largest factor.
    """

    low: float = pydantic.Field(0.0, ge=-10, le=10)
    high: float = pydantic.Field(1.0, ge=-10, le=10)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"search_settings.low is {self.low}; expected less than "
                f"search_settings.high, which is {self.high}."
            )
        return self


class RandomSearch(Search):
    """Random search; it needs no memory beside the bank.

    Raises:
      BadInputError: `search_settings` are not those of `RandomSettings`.
    """

    def __init__(self, context: Context):
        super().__init__(context)
        self._settings = parse_section(
            "search_settings", context.options, RandomSettings
        )

    @property
    def any_order(self) -> bool:
        """Candidates do not depend on each other."""
        return True

    def init(
        self,
        experts: Sequence[Genome],
        scores: np.ndarray,
        smooth: np.ndarray | None = None,
    ) -> State:
        """The experts are the first individuals."""
        return State(by_mean.expert_bank(experts, scores, smooth), 1)

    def ask(self, state: State, key: RNGKey, ts: Sequence[int]) -> Candidates:
        """Draws one factor per expert and generation from `fold_in(key, t)`."""
        num_experts = state.bank.num_experts
        experts = state.bank.gather(range(num_experts))
        low, high = self._settings.low, self._settings.high
        genomes = []
        for t in ts:
            drawn = jax.random.uniform(jax.random.fold_in(key, t), (num_experts,))
            factors = low + (high - low) * np.asarray(drawn, np.float64)
            genomes.append(jax.device_get(linear_combination(experts, factors)))
        return Candidates(tuple(ts), tuple(genomes), (Lineage(),) * len(genomes))

    def tell(
        self, state: State, candidates: Candidates, outcomes: Sequence[Outcome]
    ) -> State:
        """Records the candidates; genomes of all but the best are dropped."""
        bank = by_mean.prune(add_candidates(state.bank, candidates, outcomes))
        return State(bank, candidates.ts[-1] + 1)

    def champions(self, state: State) -> Champions:
        """One group: all individuals by their mean score."""
        return by_mean.champions(state.bank)

    def metrics(self, state: State) -> dict[str, float | str]:
        """The best scores; see `by_mean.metrics`."""
        return by_mean.metrics(state.bank, self.context.tasks)
