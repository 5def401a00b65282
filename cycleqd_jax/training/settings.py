"""The settings of the training of experts."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import AfterValidator, Field

from cycleqd_jax.config import LoggingSettings, TaskSections, check_task_settings
from cycleqd_jax.files import (
    Count,
    Date,
    EachOnce,
    Fraction,
    Name,
    PathText,
    Scale,
    Section,
    Seed,
    TaskName,
    Text,
    Whole,
    each_once,
)
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models import chat_template
from cycleqd_jax.sandbox.settings import SandboxSettings
from cycleqd_jax.tasks.base import ProblemsSettings
from cycleqd_jax.tasks.own.options import named_tasks

Share = Annotated[float, Field(gt=0, le=10**6)]
JSONL = ".jsonl"  # what the name of a source that is a file ends with


def _source(source: str) -> str:
    if not source.endswith(JSONL):
        try:
            _TASK.validate_python(source)
        except pydantic.ValidationError:
            raise ValueError(
                "Input should be a task's name, an import path like "
                f"package.module:Class, or a file whose name ends in {JSONL}"
            ) from None
    return source


_TASK = pydantic.TypeAdapter(TaskName)
Source = Annotated[PathText, AfterValidator(_source)]
Mixture = Annotated[Mapping[Source, Share], Field(min_length=1)]


class LoraSettings(Section):
    """The shape of an expert's adapter.

    Attributes:
      rank: of each adapted matrix.
      alpha: the adapter is scaled by `alpha / rank`.
      targets: ends of the names of the linear layers adapted, like q_proj; None adapts
        all, but not embeddings and the output head.
      init_std: standard deviation of A's initial values; None initialises as PEFT.
    """

    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    alpha: Scale = 16.0
    targets: (
        Annotated[
            tuple[Text, ...],
            Field(strict=False, min_length=1),
            AfterValidator(each_once),
        ]
        | None
    ) = None
    init_std: Scale | None = None

    @property
    def scale(self) -> float:
        """The factor of `B A`."""
        return self.alpha / self.rank


class UpdateSettings(Section):
    """AdamW with linear warm-up and cosine decay.

    Attributes:
      learning_rate: the peak rate.
      warmup_steps: from 0 to the peak; below `steps`.
      steps: number of updates.
      batch_size: dialogues or images per update.
      accumulate_steps: parts of an update, computed one after another; more parts need
        less memory and give the same update.
      final_fraction: of the peak rate, reached at the last step.
      weight_decay: decoupled, on matrices only.
      max_grad_norm: clips gradients by their global norm.
      checkpoint_every: updates between checkpoints; the last update has one too.
      validate_every: updates between losses on the `validate` problems, which the last
        update has too; 0 computes none.
    """

    learning_rate: Annotated[float, Field(gt=0, le=100)] = 1e-3
    warmup_steps: Count = 10
    steps: Whole = 60
    batch_size: Whole = 8
    accumulate_steps: Whole = 1
    final_fraction: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.0
    max_grad_norm: Scale = 1.0
    checkpoint_every: Whole = 100
    validate_every: Count = 0

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; expected below steps, which is "
                f"{self.steps}"
            )
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                f"accumulate_steps is {self.accumulate_steps}; expected a divisor of "
                f"batch_size, which is {self.batch_size}"
            )
        return self


class OptimiserSettings(UpdateSettings):
    """Updates on dialogues.

    Attributes:
      max_length: tokens that a dialogue may have.
    """

    max_length: Annotated[int, Field(ge=8, le=10**6)] = 192


class ExpertsSettings(Section):
    """The settings that the training of all kinds of experts has.

    Attributes:
      seed: of initial values and the order of problems.
      base_model: as in `RunConfig`.
      method: "lora" trains an adapter, "full" all weights.
      save_dtype: of the expert's files, from which the expert is validated.
      tasks: as in `RunConfig`, at least one; each gives an expert with its name.
      experts: instead of `tasks`: expert's name -> source -> weight.
      validate_on: tasks on which every expert is scored; None takes all tasks that are
        sources.
      output: a folder; each expert gets a sub-folder with its name.
      logging: of losses, in the sub-folder logs of `output`.
    """

    seed: Seed = 0
    base_model: PathText
    method: Literal["lora", "full"] = "lora"
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    tasks: EachOnce[TaskName] = ()
    experts: Mapping[Name, Mixture] = {}
    validate_on: EachOnce[TaskName] | None = None
    output: PathText
    problems: ProblemsSettings = ProblemsSettings()
    task_settings: TaskSections = Field(default_factory=dict)
    lora: LoraSettings = LoraSettings()
    optimiser: UpdateSettings = UpdateSettings()
    logging: LoggingSettings = LoggingSettings()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_tasks(cls, data: Any) -> Any:
        return named_tasks(data, ("tasks", "validate_on"))

    @pydantic.model_validator(mode="after")
    def _check_sources(self) -> Self:
        if bool(self.tasks) == bool(self.experts):
            wrong = "and experts are both given" if self.tasks else "is missing"
            raise ValueError(
                f"tasks {wrong}; expected either tasks, a list of names, or experts, a "
                "mapping of names to sources and their weights"
            )
        named = (*self.task_sources, *self.validation_tasks)
        check_task_settings(self.task_settings, list(dict.fromkeys(named)))
        if self.task_sources and self.problems.train < self.optimiser.batch_size:
            raise ValueError(
                f"problems.train is {self.problems.train}; expected at least "
                f"optimiser.batch_size, which is {self.optimiser.batch_size}"
            )
        if self.optimiser.validate_every and not self.validation_tasks:
            raise ValueError(
                f"optimiser.validate_every is {self.optimiser.validate_every}, but "
                "there is no task to validate on; name one in validate_on, or set it "
                "to 0"
            )
        return self

    @property
    def fresh_factors(self) -> bool:
        """True if `lora` decides where training starts."""
        return self.method == "lora"

    @property
    def task_sources(self) -> tuple[str, ...]:
        """All sources that are tasks, each once, in the order of the config."""
        named = [s for sources in self.experts.values() for s in sources]
        found = [s for s in (*self.tasks, *named) if not s.endswith(JSONL)]
        return tuple(dict.fromkeys(found))

    @property
    def validation_tasks(self) -> tuple[str, ...]:
        """The tasks that experts are scored on."""
        return self.task_sources if self.validate_on is None else self.validate_on


class TrainConfig(ExpertsSettings):
    """The training of language models: one per task, or each on a mixture of sources.

    A source is a task or a file of dialogues (.jsonl). `ExpertsSettings` has the other
    settings.

    Attributes:
      kind: of models.
      start_from: the folder of a LoRA adapter or of a run, from which every expert
        starts in place of fresh factors; ranks, scales and targets are the adapter's,
        not those of `lora`.
      start_individual: which individual of that run, like "aggregated" or "child/7";
        None takes the run's result.
      dtype: of base weights and computation; trained parameters and the optimiser's
        state are float32.
      date: as in `RunConfig`.
      packing: whether dialogues share rows of a batch.
      too_long: "error" or "drop" for dialogues longer than `optimiser.max_length`.
      gradient_checkpointing: whether layers are recomputed in the backward pass: less
        memory, a third more time.
      engine: of replies to `validate` problems.
      sandbox: of programs in them.
    """

    kind: Literal["text"] = "text"
    start_from: PathText | None = None
    start_individual: Text | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    date: Date = chat_template.DATE
    packing: bool = False
    too_long: Literal["error", "drop"] = "error"
    gradient_checkpointing: bool = False
    optimiser: OptimiserSettings = OptimiserSettings()
    engine: EngineSettings = EngineSettings()
    sandbox: SandboxSettings = SandboxSettings()

    @pydantic.model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.start_from is not None and self.method != "lora":
            raise ValueError(
                "start_from is given, but method is full; expected method lora, or the "
                "exported model as base_model"
            )
        if self.start_individual is not None and self.start_from is None:
            raise ValueError(
                f"start_individual is {self.start_individual}, but start_from is "
                "missing; give the run's folder there"
            )
        return self

    @property
    def fresh_factors(self) -> bool:
        """As of `ExpertsSettings`."""
        return self.method == "lora" and self.start_from is None


class ImagesConfig(ExpertsSettings):
    """The training of segmentation models on data sets of images, in float32.

    A source is the name of a data set; `ExpertsSettings` has the other settings.

    Attributes:
      kind: of models.
    """

    kind: Literal["segmentation"]
    experts: Mapping[
        Name, Annotated[Mapping[TaskName, Share], Field(min_length=1)]
    ] = {}
