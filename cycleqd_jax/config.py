"""The settings of a run, and how configs are read.

A config is plain YAML with one level of sections; unknown keys are errors. Relative
paths in it are relative to the current working directory, not to the config file.
"""

import pathlib
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
    LoggingConfig,
    ProblemsConfig,
    QDConfig,
    SandboxConfig,
    Section,
    Seed,
    TaskSections,
    Text,
    check_task_settings,
    check_tasks,
)
from cycleqd_jax.training.settings import TrainConfig

to_yaml = settings.to_yaml


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
      task_settings: entry of `tasks` -> what only that task knows, like where the data
        of a benchmark are; the task says what it takes.
    """

    seed: Seed = 0
    run_dir: Text | None = None
    base_model: Text
    dtype: Literal["float32", "bfloat16"] = "float32"
    tasks: Annotated[tuple[Text, ...], Field(strict=False, min_length=2, max_length=5)]
    experts: Mapping[str, Text]
    problems: ProblemsConfig = ProblemsConfig()
    task_settings: TaskSections = Field(default_factory=dict)
    basis: BasisConfig = BasisConfig()
    qd: QDConfig = QDConfig()
    aggregation: AggregationConfig = AggregationConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    engine: EngineConfig = EngineConfig()
    sandbox: SandboxConfig = SandboxConfig()
    logging: LoggingConfig = LoggingConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        check_tasks(self.tasks)
        check_task_settings(self.task_settings, self.tasks)
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
