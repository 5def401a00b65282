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
from cycleqd_jax.qd.aggregation import Contender
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.elites import mean_score, mean_smooth
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

_KEPT = 100  # genomes of candidates that stay in the bank, the best by mean score


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

    def init(
        self,
        experts: Sequence[Genome],
        scores: np.ndarray,
        smooth: np.ndarray | None = None,
    ) -> State:
        """The experts are the first individuals."""
        bank = Bank.empty(len(self.context.tasks), len(experts))
        likely = [None] * len(experts) if smooth is None else smooth.tolist()
        for genome, own, known in zip(experts, scores, likely, strict=True):
            bank = bank.add_expert(genome, [float(score) for score in own], known)
        return State(bank, 1)

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
        bank = add_candidates(state.bank, candidates, outcomes)
        return State(bank.prune(_ranked(bank)[:_KEPT]), candidates.ts[-1] + 1)

    def champions(self, state: State) -> Champions:
        """One group: all individuals by their mean score."""
        ranked = _ranked(state.bank)
        contenders = tuple(
            Contender(i, _mean(state.bank, i), None) for i in ranked[:_KEPT]
        )
        return Champions({"mean": contenders}, ranked[0])

    def metrics(self, state: State) -> dict[str, float | str]:
        """`best/` of every task, and `best/mean`, the best mean over all tasks."""
        ranked = _ranked(state.bank)
        tasks, best = self.context.tasks, state.bank.scores[ranked].max(axis=0)
        found = {f"best/{task}": float(b) for task, b in zip(tasks, best, strict=True)}
        return found | {"best/mean": _mean(state.bank, ranked[0])}


def _ranked(bank: Bank) -> list[int]:
    """Ids of completely evaluated individuals by mean score.

    Ties are broken by the mean smooth score where there are any, then by the lowest id.
    """
    found = np.flatnonzero(bank.complete).tolist()
    smooth = [mean_smooth(row) for row in bank.smooth.tolist()]
    return sorted(found, key=lambda i: (-_mean(bank, i), -smooth[i], i))


def _mean(bank: Bank, individual: int) -> float:
    return mean_score(bank.scores[individual].tolist())
