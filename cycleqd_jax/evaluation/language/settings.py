"""The settings of a measurement of language retention."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import AfterValidator, Field

from cycleqd_jax.evaluation.language.task import Protocol
from cycleqd_jax.files import (
    Count,
    PathText,
    Section,
    Seed,
    Text,
    Whole,
    each_once,
)
from cycleqd_jax.inference.settings import EngineSettings

Names = Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(each_once)]
EXPERTS = "experts"  # stands for all of them
# Prompts of language tasks differ in length a hundredfold, so calls shrink with them.
_ENGINE = EngineSettings(
    slots="auto", length="auto", prefill_rows=16, deterministic=False
)


class LanguageConfig(Section):
    """Which models are asked which tasks of lm-evaluation-harness.

    Attributes:
      run: folder of a finished run, or nothing where all models are given by path.
      individuals: of the run: base, aggregated, best_of_archive, uniform_merge,
        scaled_merge, expert/TASK, child/N, or "experts" for all experts.
      base_model: what scores are relative to, and what adapters belong to; with a run
        it is the run's.
      models: further ones, by name: folders of models or PEFT adapters, hub names.
      dtype: of weights and computation; with a run it is the run's.
      tasks: names of tasks, groups or tags; none for `tasks.language.DEFAULT_TASKS`.
      include: folders with task files of one's own.
      limit: problems per task at most, for a first look; nothing takes all.
      num_fewshot: examples in front of each problem; nothing takes the task's own.
      apply_chat_template: whether prompts are chats.
      system_instruction: the system's message.
      fewshot_as_multiturn: whether examples are turns of the chat.
      chat_template_args: for the chat template; the date keeps scores the same every
        day with templates that print it.
      max_length: tokens of the longest context; nothing takes the model's own.
      seed: of the choice of examples.
      bootstrap_iters: of standard errors that have no formula.
      unsafe_code: whether tasks may run what the model wrote, with this user's rights.
      individuals_per_pass: how many share the engine's passes in factored mode.
      output: a folder; `RUN/language`, or `runs/<name of the config>` without a run.
      engine: its sizes. `length: auto` takes what the longest prompt of a task needs.
    """

    run: PathText | None = None
    individuals: Names = ("base", EXPERTS, "aggregated")
    base_model: PathText | None = None
    models: Mapping[Text, PathText] = {}
    dtype: Literal["float32", "bfloat16"] | None = None
    tasks: Names = ()
    include: Annotated[tuple[PathText, ...], Field(strict=False)] = ()
    limit: Whole | None = None
    num_fewshot: Count | None = None
    apply_chat_template: bool = False
    system_instruction: Text | None = None
    fewshot_as_multiturn: bool = True
    chat_template_args: Mapping[Text, Any] = {"date_string": "26 Jul 2024"}
    max_length: Whole | None = None
    seed: Seed = 1234
    bootstrap_iters: Count = 1000
    unsafe_code: bool = False
    individuals_per_pass: Whole = 8
    output: PathText | None = None
    engine: EngineSettings = _ENGINE

    @pydantic.field_validator("engine", mode="before")
    @classmethod
    def _engine(cls, given: Any) -> Any:
        """What a section leaves open is as without one."""
        if isinstance(given, Mapping):
            return _ENGINE.model_dump() | dict(given)
        return given

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if (self.run is None) == (self.base_model is None):
            wrong = (
                "is missing" if self.run is None else "and base_model are both given"
            )
            raise ValueError(
                f"run {wrong}; expected either run, the folder of a finished run, or "
                "base_model"
            )
        if self.run is not None and self.dtype is not None:
            raise ValueError(
                f"dtype is {self.dtype}; expected nothing beside run, whose dtype it is"
            )
        if self.base_model is not None and not self.models:
            raise ValueError(
                "models is empty; expected at least one model, as name: folder, beside "
                "base_model"
            )
        for name in self.models:
            if name in ("base", *self.individuals):
                raise ValueError(
                    f"models names one {name!r}; expected a name that is not one of "
                    "individuals"
                )
        return self

    @property
    def protocol(self) -> Protocol:
        """How tasks are put to models."""
        names = Protocol._fields
        return Protocol(**{name: getattr(self, name) for name in names})
