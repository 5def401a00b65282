"""The settings of a run and of the training of experts.

A config is plain YAML with one level of sections; unknown keys are errors. Relative
paths in it are relative to the current working directory, not to the config file.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self, TypeVar

import pydantic
from pydantic import Field

from cycleqd_jax import settings
from cycleqd_jax.config_sections import (
    AggregationConfig,
    BaselinesConfig,
    BasisConfig,
    EngineConfig,
    LoraConfig,
    OptimiserConfig,
    ProblemsConfig,
    QDConfig,
    SandboxConfig,
    Section,
    Seed,
    Text,
)

to_yaml = settings.to_yaml

_TASK = re.compile(r"[A-Za-z_]\w*|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class RunConfig(Section):
    """One evolution.

    Attributes:
      seed: of the search.
      run_dir: the run folder; `load_config` fills in runs/<name of the config file>.
      base_model: "package:<module>/<file>.gguf", a folder, a GGUF file or a hub name
        with revision.
      dtype: of weights and computation.
      tasks: names, or import paths "package.module:Class"; order of the archives.
      experts: a PEFT or model folder for every entry of `tasks`.
    """

    seed: Seed = 0
    run_dir: Text | None = None
    base_model: Text
    dtype: Literal["float32", "bfloat16"] = "float32"
    tasks: Annotated[tuple[Text, ...], Field(strict=False, min_length=2, max_length=5)]
    experts: Mapping[str, Text]
    problems: ProblemsConfig = ProblemsConfig()
    basis: BasisConfig = BasisConfig()
    qd: QDConfig = QDConfig()
    aggregation: AggregationConfig = AggregationConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    engine: EngineConfig = EngineConfig()
    sandbox: SandboxConfig = SandboxConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        _check_tasks(self.tasks)
        settings.check_keys("experts", self.experts, self.tasks)
        if self.qd.cell_range != "relative":
            settings.check_keys("qd.cell_range", self.qd.cell_range, self.tasks)
        if self.aggregation.candidates and not self.problems.validate_:
            raise ValueError(
                f"problems.validate is 0; expected at least 1 because "
                f"aggregation.candidates is {self.aggregation.candidates}, or set that "
                "to 0."
            )
        return self

    @property
    def expert_paths(self) -> tuple[str, ...]:
        """The experts' folders in the order of `tasks`."""
        return tuple(self.experts[task] for task in self.tasks)


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
        _check_tasks(self.tasks)
        if self.problems.train < self.optimiser.batch_size:
            raise ValueError(
                f"problems.train is {self.problems.train}; expected at least "
                f"optimiser.batch_size, which is {self.optimiser.batch_size}."
            )
        return self


Config = TypeVar("Config", RunConfig, TrainConfig)


def load_config(
    path: str | pathlib.Path, overrides: Sequence[str], cls: type[Config]
) -> Config:
    """Reads and checks a YAML config; see `settings.load` for overrides and errors.

    A run without `run_dir` gets `runs/<name of the config file without its ending>`.
    """
    config = settings.load(path, overrides, cls)
    if isinstance(config, RunConfig) and config.run_dir is None:
        stem = pathlib.Path(path).stem
        return config.model_copy(update={"run_dir": f"runs/{stem}"})
    return config


def _check_tasks(tasks: Sequence[str]) -> None:
    """Each is a name or an import path, none twice."""
    for task in tasks:
        if not _TASK.fullmatch(task):
            raise ValueError(
                f"tasks names {task!r}; expected a name like pocket_coding or an "
                "import path like package.module:Class."
            )
    settings.check_unique("tasks", tasks)
