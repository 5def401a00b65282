"""The sections a config is made of: types, defaults, checks within one section.

Defaults are the paper's (arXiv 2410.14735) where it has the setting, else ours.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from cycleqd_jax import settings

Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=0, le=10**6)]
Whole = Annotated[int, Field(ge=1, le=10**6)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=10)]
Range = Annotated[tuple[Fraction, Fraction], Field(strict=False)]
TaskSections = Mapping[Text, Mapping[Text, Any]]
CROSSOVERS = ("linear",)
MUTATIONS = ("svd", "svd_child", "svd_scale", "gaussian", "none")
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Section(pydantic.BaseModel):
    """Frozen, strict (no "3" for 3, no true for 1), without unknown keys."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )


class ProblemsConfig(Section):
    """Which problems the tasks generate.

    Attributes:
      seed: of the problems; not the seed of the search.
      train: problems per task that experts learn from.
      optimise: problems per task that the search scores children on.
      validate_: problems per task that champions are chosen on; `validate` in YAML.
      test: problems per task that are only reported; 0 reports none.
      turns: replies per episode, 1 or 2.
    """

    model_config = pydantic.ConfigDict(validate_by_name=False, serialize_by_alias=True)

    seed: Seed = 0
    train: Count = 600
    optimise: Whole = 24
    # `validate` would hide a method of pydantic's.
    validate_: Count = Field(24, alias="validate")
    test: Count = 64
    turns: Annotated[int, Field(ge=1, le=2)] = 1

    @property
    def sizes(self) -> dict[str, int]:
        """Problems per split and task, by the split's name."""
        return {
            "train": self.train,
            "optimise": self.optimise,
            "validate": self.validate_,
            "test": self.test,
        }


class BasisConfig(Section):
    """How experts become singular directions.

    Attributes:
      rank: directions kept per matrix and expert; "full" keeps each expert's own.
      residual: what becomes of what a smaller rank cuts off: dropped, or kept as a
        dense matrix that every individual holds its share of.
      conditioning: what is done to task vectors before the SVD.
      keep: whether the basis is kept in the user's cache folder, for other runs of the
        same experts.
    """

    rank: Literal["full"] | Whole = "full"
    residual: Literal["drop", "keep"] = "drop"
    conditioning: Literal["none"] = "none"
    keep: bool = True


class QDConfig(Section):
    """The search.

    Attributes:
      num_generations: children in all, whatever the batch.
      children_per_batch: children proposed from the same archives and evaluated
        together; the last batch may be smaller.
      flip_interval: generations an archive stays active.
      bins: per behaviour dimension.
      cell_range: "relative" (85 % of the weakest to 115 % of the strongest expert's
        score) or the two ends of every task's scores, by task.
      selection: how parents are drawn: in proportion to how good they are at
        everything, the same as the published code computes it, or alike.
      alpha_low: weight of the worst elite's score in elite selection.
      alpha_high: weight of the best elite's score.
      crossover_mean: of a parent's raw mixing weight; dimensionless.
      crossover_std: of the same; at most a fifth of the mean, so that the sum of two
        weights is never near 0.
      crossover: "linear", or one's own as "package.module:function".
      mutation: which operator, or one's own as "package.module:function".
      w_max: upper end of the uniform step along each singular direction, in units of
        its singular value.
      gaussian_std: standard deviation of Gaussian mutation, in units of a weight.
    """

    num_generations: Whole = 1200
    children_per_batch: Whole = 8
    flip_interval: Whole = 1
    bins: Annotated[int, Field(ge=2, le=1000)] = 15
    cell_range: Literal["relative"] | Mapping[str, Range] = "relative"
    selection: Literal["elite", "elite_ref", "random"] = "elite"
    alpha_low: Positive = 0.5
    alpha_high: Positive = 0.8
    crossover: Text = "linear"
    crossover_mean: Positive = 1.0
    crossover_std: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    mutation: Text = "svd"
    w_max: Annotated[float, Field(ge=0, le=10)] = 0.3
    gaussian_std: Annotated[float, Field(ge=0, le=1)] = 0.0003

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        _check_operator("qd.crossover", self.crossover, CROSSOVERS)
        _check_operator("qd.mutation", self.mutation, MUTATIONS)
        if self.alpha_low > self.alpha_high:
            raise ValueError(
                f"qd.alpha_low is {self.alpha_low}; expected at most qd.alpha_high, "
                f"which is {self.alpha_high}."
            )
        if self.crossover_std > 0.2 * self.crossover_mean:
            raise ValueError(
                f"qd.crossover_std is {self.crossover_std}; expected at most a fifth "
                f"of qd.crossover_mean, which is {self.crossover_mean}."
            )
        if self.cell_range != "relative":
            for task, (low, high) in self.cell_range.items():
                if low >= high:
                    raise ValueError(
                        f"qd.cell_range of {task} is [{low}, {high}]; expected a lower "
                        "end below the upper one."
                    )
        return self


class AggregationConfig(Section):
    """How one model is made of the archives.

    Attributes:
      candidates: best elites per archive that are scored again on `validate` before
        one is chosen; 0 takes the best on `optimise`, as the paper does.
      choose_by: the mean over all tasks, or the quality, the archive's own task.
    """

    candidates: Count = 3
    choose_by: Literal["mean", "quality"] = "mean"


class BaselinesConfig(Section):
    """What the result is compared with.

    Attributes:
      scaled_merge_factors: factors of the sum of task vectors; the best on `optimise`
        is the `scaled_merge`.
    """

    scaled_merge_factors: Annotated[
        tuple[Factor, ...], Field(strict=False, min_length=1)
    ] = (0.3, 0.4, 0.5, 0.6, 0.8)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        settings.check_unique(
            "baselines.scaled_merge_factors", self.scaled_merge_factors
        )
        return self


class MeshConfig(Section):
    """The devices that one engine runs on.

    Attributes:
      data: the slots are divided among so many.
      tensor: heads, feed-forward layers and vocabulary are divided among so many.
    """

    data: Whole = 1
    tensor: Whole = 1


class EngineConfig(Section):
    """The inference engine's static sizes.

    Attributes:
      slots: sequences in the batch; "auto" takes what the memory has room for.
      length: tokens a sequence may have, prompt and replies together; "auto" takes what
        the longest problem of the tasks needs.
      prefill_rows: sequences in one prefill call; at most `slots`.
      prefill_chunk: tokens per row of one prefill call; divides `length`.
      decode_steps: tokens per sequence of one decode call.
      mode: population in one pass, one individual at a time, or decided from sizes.
      deterministic: scores do not depend on the order in which replies arrive; else
        calls shrink with the work, which is faster where batches thin out.
      attention: how it is computed; see `models.attention`.
      mesh: the devices.
    """

    slots: Literal["auto"] | Whole = 64
    length: Literal["auto"] | Whole = 192
    prefill_rows: Whole = 32
    prefill_chunk: Whole = 16
    decode_steps: Whole = 8
    mode: Literal["auto", "factored", "materialised"] = "auto"
    deterministic: bool = True
    attention: Literal["auto", "xla", "dot_product", "cudnn", "pallas"] = "auto"
    mesh: MeshConfig = MeshConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.slots != "auto" and self.prefill_rows > self.slots:
            raise ValueError(
                f"engine.prefill_rows is {self.prefill_rows}; expected at most "
                f"engine.slots, which is {self.slots}."
            )
        if self.length == "auto":
            return self
        if self.length % self.prefill_chunk:
            raise ValueError(
                f"engine.prefill_chunk is {self.prefill_chunk}; expected a divisor of "
                f"engine.length, which is {self.length}."
            )
        if self.decode_steps > self.length:
            raise ValueError(
                f"engine.decode_steps is {self.decode_steps}; expected at most "
                f"engine.length, which is {self.length}."
            )
        return self


class SandboxConfig(Section):
    """Where code that a model wrote runs.

    Attributes:
      kind: "bubblewrap", or "none" to run it with this user's own rights.
      workers: programs at a time.
      memoise: one verdict per distinct answer to a problem.
    """

    kind: Literal["bubblewrap", "none"] = "bubblewrap"
    workers: Whole = 2
    memoise: bool = True


class LoggingConfig(Section):
    """Where metrics go, beside the run folder's parquet files, which are always there.

    Attributes:
      to: "tensorboard" (event files in the run folder) and "wandb"; each needs its
        extra to be installed.
      project: of Weights & Biases.
    """

    to: Annotated[tuple[Literal["tensorboard", "wandb"], ...], Field(strict=False)] = ()
    project: Text = "cycleqd_jax"

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        settings.check_unique("logging.to", self.to)
        return self


def check_tasks(tasks: Sequence[str]) -> None:
    """Each is a name or an import path, none twice."""
    for task in tasks:
        if not (task.isidentifier() or IMPORT_PATH.fullmatch(task)):
            raise ValueError(
                f"tasks names {task!r}; expected a name like pocket_coding or an "
                "import path like package.module:Class."
            )
    settings.check_unique("tasks", tasks)


def check_task_settings(
    given: Mapping[str, Mapping[str, object]], tasks: Sequence[str]
) -> None:
    """Every section is one of a task that there is."""
    for name in given:
        if name not in tasks:
            raise ValueError(
                f"task_settings has a section {name!r}, which is not one of the tasks "
                f"{', '.join(tasks)}."
            )


def _check_operator(key: str, value: str, known: tuple[str, ...]) -> None:
    """A known name or an import path."""
    if value not in known and not IMPORT_PATH.fullmatch(value):
        raise ValueError(
            f"{key} is {value!r}; expected {', '.join(known)}, or an import path like "
            "package.module:function."
        )
