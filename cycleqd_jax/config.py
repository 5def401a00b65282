"""The settings of a run, and how configs are read and written.

A config is plain YAML with one level of sections, each a model that lives beside the
code it sets. Relative paths are relative to the current working directory, not to the
config file; `~` is the home folder.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from cycleqd_jax.errors import BadInputError, explain
from cycleqd_jax.evaluation.image_settings import ImagesSettings
from cycleqd_jax.evaluation.ray_settings import RaySettings
from cycleqd_jax.evaluation.retention import RetentionSettings
from cycleqd_jax.evaluation.rungs import RacingSettings
from cycleqd_jax.evaluation.smooth import FitnessSettings
from cycleqd_jax.files import (
    Count,
    Date,
    EachOnce,
    ImportPath,
    Model,
    PathText,
    Section,
    Seed,
    TaskName,
    Text,
    each_once,
)
from cycleqd_jax.files.overrides import override, with_preset
from cycleqd_jax.files.remote import is_url
from cycleqd_jax.files.yaml import dump_yaml, read_mapping
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.merging import expert_names
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.models import chat_template
from cycleqd_jax.models.vocabulary import Vocabulary
from cycleqd_jax.qd.settings import AggregationSettings, QDSettings
from cycleqd_jax.sandbox.settings import SandboxSettings
from cycleqd_jax.search.merges import BaselinesSettings
from cycleqd_jax.search.registry import search_class
from cycleqd_jax.tasks.base import ProblemsSettings
from cycleqd_jax.tasks.own.options import named_tasks

TaskSections = Mapping[Text, Mapping[Text, Any]]
SHELL_TASK = "os_interaction"  # its episodes run in a shell of the sandbox


class LoggingSettings(Section):
    """Further places for metrics; the run folder's parquet files are always written.

    Attributes:
      to: "tensorboard" (event files in the run folder) and "wandb"; each needs its
        extra to be installed.
      project: of Weights & Biases.
    """

    to: EachOnce[Literal["tensorboard", "wandb"]] = ()
    project: Text = "cycleqd_jax"


def _bucket(url: str) -> str:
    if not is_url(url):
        raise ValueError("Input should be a URL like gs://bucket/runs/paper")
    return url


def _on_or_off(value: Any) -> Any:
    """YAML reads on and off as true and false."""
    return ("off", "on")[value] if isinstance(value, bool) else value


class RunConfig(Section):
    """One evolution.

    Attributes:
      seed: of the search.
      run_dir: the run folder; `load_config` fills in runs/<name of the config file>.
      mirror: the URL of a folder in a bucket, like gs://bucket/runs/paper, that the run
        folder is copied to after every checkpoint, and that `--resume` fetches it from.
      base_model: "package:<module>/<file>.gguf", a folder, a GGUF file or a hub name
        with revision.
      dtype: of weights and computation.
      date: the day in the prompts of a chat template that prints it, whenever a run is
        begun or resumed.
      tasks: names, import paths "package.module:Class", or "lm_eval:TASK"; order of
        the archives. All are tasks of language models, or all are data sets of images.
        A mapping with `jsonl`, `csv` or `hub` is a task made from a file or a data set:
        `name`, and what `task_settings` would have under it
        (`tasks.own.options.OwnOptions`).
      out_of_domain: further tasks, named like those of `tasks`, without a part in the
        search: the compared models answer their `test` problems when it is over.
      population: number of diverse individuals that play `test` when the search is
        over; the report says what they and the compared models solve together.
      experts: entry of `tasks` -> the PEFT or model folder of its expert, or "none"
        for a task without one. Other keys are names of further experts, which belong to
        no task.
      vocabulary: the tokens of the result where experts have others than the base:
        "base" for the base's, "union" for those that experts added too.
      task_settings: entry of `tasks` or `out_of_domain` -> what only that task knows,
        like where the data of a benchmark are; the task says what it takes.
      search: the search method, or the import path of a class.
      search_settings: what only that search knows; the search says what it takes.
      engine: only of language models.
      images: only of segmentation models.
      evaluator: "local" evaluates in this process, "ray" on the hosts of a cluster.
      distributed: whether the command runs in several processes whose devices make one
        mesh, one process per host; "auto" says yes on TPU pods, and where the variable
        JAX_COORDINATOR_ADDRESS is set.
    """

    seed: Seed = 0
    run_dir: PathText | None = None
    mirror: Annotated[Text, AfterValidator(_bucket)] | None = None
    base_model: PathText
    dtype: Literal["float32", "bfloat16"] = "float32"
    date: Date = chat_template.DATE
    tasks: Annotated[
        tuple[TaskName, ...],
        Field(strict=False, min_length=2, max_length=5),
        AfterValidator(each_once),
    ]
    out_of_domain: EachOnce[TaskName] = ()
    population: Count = 0
    experts: Mapping[str, PathText]
    vocabulary: Vocabulary = "base"
    problems: ProblemsSettings = ProblemsSettings()
    task_settings: TaskSections = Field(default_factory=dict)
    basis: BasisSettings = BasisSettings()
    search: (
        Literal[
            "cycleqd",
            "cma_es",
            "gradient",
            "map_elites",
            "nsga2",
            "random",
            "merge",
        ]
        | ImportPath
    ) = "cycleqd"
    search_settings: Mapping[Text, Any] = Field(default_factory=dict)
    qd: QDSettings = QDSettings()
    fitness: FitnessSettings = FitnessSettings()
    racing: RacingSettings = RacingSettings()
    aggregation: AggregationSettings = AggregationSettings()
    baselines: BaselinesSettings = BaselinesSettings()
    retention: RetentionSettings = RetentionSettings()
    engine: EngineSettings = EngineSettings()
    images: ImagesSettings = ImagesSettings()
    evaluator: Literal["local", "ray"] = "local"
    ray: RaySettings = RaySettings()
    distributed: Annotated[
        Literal["auto", "on", "off"], BeforeValidator(_on_or_off)
    ] = "auto"
    sandbox: SandboxSettings = SandboxSettings()
    logging: LoggingSettings = LoggingSettings()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_tasks(cls, data: Any) -> Any:
        return named_tasks(data, ("tasks", "out_of_domain"))

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.out_of_domain:
            if name in self.tasks:
                raise ValueError(
                    f"out_of_domain has {name!r}, which is one of tasks; expected "
                    "tasks that the search does not see"
                )
        every = (*self.tasks, *self.out_of_domain)
        check_task_settings(self.task_settings, every)
        check_shells_exist(self.sandbox, every)
        expert_names.check_experts(self.experts, self.tasks)
        if self.evaluator == "ray" and self.engine.slots == "auto":
            raise ValueError(
                "engine.slots is auto; expected a number because evaluator is ray, and "
                "all hosts must have the same programs"
            )
        if self.evaluator == "ray" and self.distributed == "on":
            raise ValueError(
                "distributed is on; expected auto or off because evaluator is ray, "
                "whose evaluators each have a mesh of their own"
            )
        if self.qd.cell_range != "relative":
            _check_keys("qd.cell_range", self.qd.cell_range, self.tasks)
        if self.aggregation.candidates and not self.problems.validate_:
            raise ValueError(
                "problems.validate is 0; expected at least 1 because "
                f"aggregation.candidates is {self.aggregation.candidates}, or set that "
                "to 0"
            )
        return self

    @property
    def expert_paths(self) -> tuple[str, ...]:
        """The experts' folders, in the order of `name_experts`."""
        return tuple(self.name_experts(self.tasks).values())

    def name_experts(self, names: Sequence[str]) -> dict[str, str]:
        """Expert -> folder, in order, from the names of `tasks`; see `named_experts`.

        Raises:
          BadInputError: a further expert has the name of a task.
        """
        return expert_names.named_experts(self.experts, self.tasks, names)

    @property
    def noise(self) -> NoiseSource | None:
        """The source of the genomes' Gaussian noise; None for a search without any."""
        if not search_class(self.search).uses_noise(self.qd):
            return None
        return NoiseSource(self.seed, self.qd.gaussian_std)


def check_shells_exist(sandbox: SandboxSettings, tasks: Sequence[str]) -> None:
    """Refuses a shell without a wall.

    Raises:
      ValueError: names sandbox and task.
    """
    if sandbox.kind == "none" and SHELL_TASK in tasks:
        raise ValueError(
            f"sandbox.kind is none, which has no shells, but tasks has {SHELL_TASK}; "
            "expected sandbox.kind bubblewrap"
        )


def check_task_settings(
    given: Mapping[str, Mapping[str, object]], tasks: Sequence[str]
) -> None:
    """Refuses a section of a task that is not one of `tasks`.

    Raises:
      ValueError: one sentence.
    """
    for name in given:
        if name not in tasks:
            raise ValueError(
                f"task_settings has a section {name!r}, which is not one of the tasks "
                f"{', '.join(tasks)}"
            )


def _check_keys(key: str, given: Mapping[str, object], tasks: Sequence[str]) -> None:
    """The keys of `given`, the value of the setting `key`, are exactly `tasks`."""
    if set(given) != set(tasks):
        raise ValueError(
            f"{key} has entries for {', '.join(given) or 'nothing'}; expected one for "
            f"each of the tasks {', '.join(tasks)}"
        )


def load_config(
    path: str | pathlib.Path, overrides: Sequence[str], cls: type[Model]
) -> Model:
    """Reads and checks a YAML config.

    A run without `run_dir` gets `runs/<name of the config file without its ending>`.

    Args:
      path: the file, or its URL like gs://bucket/config.yaml.
      overrides: `key=value` each; the key is a top-level name or `section.name`, the
        value is YAML. Later ones win.
      cls: what is read, like `RunConfig`. A run may have a `preset`, see `with_preset`.

    Raises:
      BadInputError: one sentence: where the value came from, its key, what is wrong.
    """
    own = read_mapping(path)
    overridden = [override(own, text) for text in overrides]
    data = with_preset(own, str(path)) if issubclass(cls, RunConfig) else own
    try:
        config = cls.model_validate(data)
    except pydantic.ValidationError as err:
        error, sentence = explain(err, data, cls)
        source = _source(path, overridden, error)
        if own.get("preset") and not _has(own, error["loc"]):
            source = own["preset"]
        raise BadInputError(f"{source}: {sentence}") from err
    if isinstance(config, RunConfig) and config.run_dir is None:
        stem = pathlib.Path(path).stem
        return config.model_copy(update={"run_dir": f"runs/{stem}"})
    return config


def _has(data: Mapping[str, Any], loc: Sequence[Any]) -> bool:
    """True if settings themselves, not their preset, have what an error is about."""
    inner: Any = data
    for part in loc[:2]:
        if not isinstance(inner, Mapping):
            return True
        if part not in inner:
            return False
        inner = inner[part]
    return True


def to_yaml(config: Section) -> str:
    """All settings as YAML text; `load_config` of it gives an equal object."""
    return dump_yaml(config.model_dump(mode="json"))


def _source(
    path: str | pathlib.Path,
    overridden: Sequence[tuple[str, ...]],
    error: Mapping[str, Any],
) -> str:
    """Names the source of a wrong value: the file or the command line."""
    loc = tuple(str(part) for part in error["loc"])
    if any(loc[: len(key)] == key for key in overridden):
        return "command line"
    if error["type"] == "value_error" and overridden:  # a check across several keys
        return f"{path} and command line"
    return str(path)
