"""The settings of the search and of the aggregation that follows it.

Defaults are the paper's (arXiv 2410.14735) where it has the setting, else ours.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from cycleqd_jax.files import (
    Count,
    EachOnce,
    Fraction,
    ImportPath,
    Scale,
    Section,
    Whole,
)

# A factor of the sum of all experts, or the name of a merge in closed form.
Seed = Annotated[float, Field(gt=0, le=10)] | Literal["uniform", "tsv_m", "iso_c"]
Mutation = Literal[
    "svd", "svd_child", "svd_scale", "svd_all", "gaussian", "gradient", "es", "none"
]
Width = Annotated[float, Field(ge=0, le=10)]
Range = Annotated[tuple[Fraction, Fraction], Field(strict=False)]


class QDSettings(Section):
    """The search.

    Attributes:
      num_generations: children in all, whatever the batch.
      children_per_batch: children bred from the same archives and evaluated together;
        the last batch may be smaller.
      flip_interval: generations that an archive stays active.
      seeds: the first children, in this order: factors of the sum of all experts, and
        merges in closed form by name; see `search.seeds`.
      bins: per behaviour dimension.
      cell_range: "relative" (85 % of the weakest to 115 % of the strongest expert's
        score), or the two ends of each task's scores, by task.
      selection: how parents are drawn: "elite" in proportion to a product of their
        scaled scores, "elite_ref" as the published code computes it, "random" with
        equal probability; see `selection.py`.
      alpha_low: weight of the worst elite's score in elite selection.
      alpha_high: weight of the best elite's score; at least `alpha_low`.
      crossover: "linear" with weights that sum to 1, "free" with a share per expert,
        "blend" with shares by the size of what each parent has of an expert, or the
        import path of a function (see `operators.py`).
      crossover_mean: mean of a parent's raw mixing weight; dimensionless.
      crossover_std: its standard deviation; at most a fifth of the mean, so that the
        sum of two weights is never near 0.
      mutation: the operator, or the import path of a function.
      w_max: upper end of the uniform step along each singular direction, in units of
        its singular value.
      gaussian_std: standard deviation of Gaussian mutation, in units of a weight.
      expert_std: standard deviation of the step that "svd_all" makes along all
        directions of an expert, in units of their singular values.
      matrix_std: the same, of an expert in one matrix.
      direction_std: the same, along one direction.
      ascent_answers: the right answers that "gradient" follows: "known" ones of `train`
        problems, or replies to `optimise` problems that were "accepted" from the
        individuals evaluated so far.
      ascent_steps: steps of "gradient" and "es".
      ascent_rate: learning rate of a step, in units of singular values.
      ascent_optimiser: "adam", or "normalised" for plain gradient ascent; gradients are
        scaled to a root mean square of 1 before either.
      ascent_problems: problems per task and step; all of them if there are fewer.
      ascent_sigma: scale of the other tasks' weights, `|N(0, ascent_sigma^2)|`; the
        active task has weight 1.
      es_pairs: antithetic pairs of perturbations per step of "es".
      es_std: standard deviation of a perturbation, in units of singular values.
    """

    num_generations: Whole = 1200
    children_per_batch: Whole = 8
    flip_interval: Whole = 1
    seeds: EachOnce[Seed] = ()
    bins: Annotated[int, Field(ge=2, le=1000)] = 15
    cell_range: Literal["relative"] | Mapping[str, Range] = "relative"
    selection: Literal["elite", "elite_ref", "random"] = "elite"
    alpha_low: Scale = 0.5
    alpha_high: Scale = 0.8
    crossover: Literal["linear", "free", "blend"] | ImportPath = "linear"
    crossover_mean: Scale = 1.0
    crossover_std: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    mutation: Mutation | ImportPath = "svd"
    w_max: Width = 0.3
    gaussian_std: Annotated[float, Field(ge=0, le=1)] = 0.0003
    expert_std: Width = 0.1
    matrix_std: Width = 0.15
    direction_std: Width = 0.15
    ascent_answers: Literal["known", "accepted"] = "known"
    ascent_steps: Annotated[int, Field(ge=1, le=100)] = 4
    ascent_rate: Width = 0.03
    ascent_optimiser: Literal["adam", "normalised"] = "adam"
    ascent_problems: Whole = 4
    ascent_sigma: Width = 0.5
    es_pairs: Annotated[int, Field(ge=1, le=1000)] = 8
    es_std: Annotated[float, Field(gt=0, le=10)] = 0.05

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.alpha_low > self.alpha_high:
            raise ValueError(
                f"alpha_low is {self.alpha_low}; expected at most alpha_high, which is "
                f"{self.alpha_high}"
            )
        if self.crossover_std > 0.2 * self.crossover_mean:
            raise ValueError(
                f"crossover_std is {self.crossover_std}; expected at most a fifth of "
                f"crossover_mean, which is {self.crossover_mean}"
            )
        cores = [seed for seed in self.seeds if seed in ("tsv_m", "iso_c")]
        if cores and not self.needs_cores:
            raise ValueError(
                f"seeds has {cores[0]} and mutation is {self.mutation}; expected "
                "svd_child or svd_scale, whose genomes can hold such a merge"
            )
        if self.ascent_answers == "accepted" and self.mutation == "es":
            raise ValueError(
                "ascent_answers is accepted and mutation is es; expected gradient, "
                "which alone follows accepted replies"
            )
        by_expert = self.crossover in ("free", "blend")
        if by_expert and (self.needs_cores or self.has_noise):
            raise ValueError(
                f"crossover is {self.crossover} and mutation is {self.mutation}; "
                "expected another of the two, as shares per expert need genomes whose "
                "coefficients each belong to one expert"
            )
        if self.cell_range != "relative":
            for task, (low, high) in self.cell_range.items():
                if low >= high:
                    raise ValueError(
                        f"cell_range of {task} is [{low}, {high}]; expected a lower "
                        "end below the upper one"
                    )
        return self

    @property
    def custom_crossover(self) -> str | None:
        """The import path of a user's crossover."""
        return self.crossover if ":" in self.crossover else None

    @property
    def custom_mutation(self) -> str | None:
        """The import path of a user's mutation."""
        return self.mutation if ":" in self.mutation else None

    @property
    def ascends(self) -> bool:
        """True if mutation asks for gradients or scores on `train` problems."""
        return self.mutation in ("gradient", "es")

    @property
    def ascends_accepted(self) -> bool:
        """True if mutation follows accepted replies."""
        return self.mutation == "gradient" and self.ascent_answers == "accepted"

    @property
    def needs_cores(self) -> bool:
        """True if genomes must be in core form."""
        return self.mutation in ("svd_child", "svd_scale")

    @property
    def has_noise(self) -> bool:
        """True if genomes hold Gaussian noise."""
        return self.mutation == "gaussian"


class AggregationSettings(Section):
    """Settings of the aggregation of the archives into one model.

    Attributes:
      candidates: best elites per archive that are scored again on `validate` before
        one is chosen; 0 takes the best on `optimise`, as the paper does.
      choose_by: the mean over all tasks, or the quality, the archive's own task.
      result: "average" is the champions' average, as in the paper; "validated" is the
        best by the mean on `validate` of that average and the champions themselves, so
        it needs candidates.
    """

    candidates: Count = 3
    choose_by: Literal["mean", "quality"] = "mean"
    result: Literal["average", "validated"] = "average"

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.result == "validated" and not self.candidates:
            raise ValueError(
                "aggregation.result is validated, but aggregation.candidates is 0, so "
                "nothing is scored on `validate`; set candidates to 1 or more, or "
                "result to average."
            )
        return self
