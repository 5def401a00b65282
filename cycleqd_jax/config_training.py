"""The settings of the training of experts."""

from typing import Annotated, Literal, Self, get_args

import pydantic
from pydantic import Field

from cycleqd_jax import settings
from cycleqd_jax.config_sections import (
    Count,
    EngineConfig,
    Fraction,
    Positive,
    ProblemsConfig,
    SandboxConfig,
    Section,
    Seed,
    Text,
    Whole,
    check_tasks,
)

Target = Literal[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
]
TARGETS: tuple[Target, ...] = get_args(Target)


class LoraConfig(Section):
    """The shape of an expert's adapter.

    Attributes:
      rank: of each adapted matrix.
      alpha: the adapter is scaled by `alpha / rank`.
      targets: the linear layers adapted.
      init_std: of A's normal initial values; nothing takes 1 / sqrt(inputs). B is 0.
    """

    rank: Whole = 8
    alpha: Positive = 16.0
    targets: Annotated[tuple[Target, ...], Field(strict=False, min_length=1)] = TARGETS
    init_std: Positive | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        settings.check_unique("lora.targets", self.targets)
        return self


class OptimiserConfig(Section):
    """AdamW with linear warm-up and cosine decay.

    Attributes:
      learning_rate: the highest.
      warmup_steps: from 0 to the highest; below `steps`.
      steps: updates in all.
      batch_size: dialogues per update.
      final_fraction: of the highest rate, reached at the last step.
      weight_decay: decoupled.
      max_grad_norm: gradients are clipped to this global norm.
      max_length: tokens a training dialogue may have.
    """

    learning_rate: Positive = 1e-3
    warmup_steps: Count = 10
    steps: Whole = 60
    batch_size: Whole = 8
    final_fraction: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Positive = 1.0
    max_length: Annotated[int, Field(ge=8, le=10**6)] = 192

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"optimiser.warmup_steps is {self.warmup_steps}; expected below "
                f"optimiser.steps, which is {self.steps}."
            )
        return self


class TrainConfig(Section):
    """The training of one LoRA expert per task.

    Attributes:
      seed: of initial values and the order of problems.
      base_model: as in `RunConfig`.
      dtype: of the base's weights and the computation; adapters train in float32.
      tasks: as in `RunConfig`, one is enough.
      output: a folder; each expert goes into a sub-folder with its task's name.
    """

    seed: Seed = 0
    base_model: Text
    dtype: Literal["float32", "bfloat16"] = "float32"
    tasks: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
    output: Text
    problems: ProblemsConfig = ProblemsConfig()
    lora: LoraConfig = LoraConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    engine: EngineConfig = EngineConfig()
    sandbox: SandboxConfig = SandboxConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        check_tasks(self.tasks)
        if self.problems.train < self.optimiser.batch_size:
            raise ValueError(
                f"problems.train is {self.problems.train}; expected at least "
                f"optimiser.batch_size, which is {self.optimiser.batch_size}."
            )
        return self
