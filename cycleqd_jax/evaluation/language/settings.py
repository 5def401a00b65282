"""The settings of a measurement of language retention."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import AfterValidator, Field

from cycleqd_jax.files import (
    Count,
    Date,
    Name,
    PathText,
    Section,
    Seed,
    Text,
    Whole,
    each_once,
)
from cycleqd_jax.inference.settings import EngineSettings

Names = Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(each_once)]
EXPERTS = "experts"  # stands for all experts of a run


class HarnessSettings(Section):
    """Settings of the harness that decide scores.

    Attributes:
      limit: problems per task at most; None takes all.
      num_fewshot: examples in front of each problem; None takes the task's own number.
      apply_chat_template: whether prompts are chats.
      system_instruction: the system's message, or the first line without a template.
      fewshot_as_multiturn: whether examples are turns of the chat.
      chat_template_args: further arguments of the chat template.
      max_length: tokens of the longest context; None takes the model's own.
      seed: of the choice of examples, and of sampled replies.
      bootstrap_iters: resamplings for standard errors without a formula; 0 computes no
        standard errors.
      unsafe_code: whether tasks may run what the model wrote, with this user's rights.
    """

    limit: Whole | None = None
    num_fewshot: Count | None = None
    apply_chat_template: bool = False
    system_instruction: Text | None = None
    fewshot_as_multiturn: bool = True
    chat_template_args: Mapping[Text, Any] = {}
    max_length: Whole | None = None
    seed: Seed = 1234
    bootstrap_iters: Count = 1000
    unsafe_code: bool = False


class LanguageEngine(EngineSettings):
    """The engine's settings, with defaults for prompts of very different lengths.

    `length: auto` takes what the longest prompt of a task needs.
    """

    slots: Literal["auto"] | Whole = "auto"
    length: Literal["auto"] | Whole = "auto"
    prefill_rows: Whole = 16
    deterministic: bool = False


class LanguageConfig(HarnessSettings):
    """The models and the tasks of lm-evaluation-harness to run on them.

    Attributes:
      run: folder of a finished run; None where all models are given by path.
      individuals: names in the run, or "experts" for all experts.
      base_model: what scores are relative to; with a run it is the run's.
      models: further models by name: folders of models or PEFT adapters of the base,
        hub names.
      dtype: of weights and computation, else float32; with a run it is the run's.
      date: the day in the prompts of a chat template that prints it, else 2024-07-26;
        with a run it is the run's.
      tasks: names of tasks, groups or tags.
      include: folders with user-defined tasks.
      individuals_per_pass: how many share the engine's passes in factored mode.
      output: a folder; `RUN/language`, or `runs/<name of the config>` without a run.
      engine: its sizes.
    """

    run: PathText | None = None
    individuals: Names = ("base", EXPERTS, "aggregated")
    base_model: PathText | None = None
    models: Mapping[Name, PathText] = {}
    dtype: Literal["float32", "bfloat16"] | None = None
    date: Date | None = None
    tasks: Annotated[Names, Field(min_length=1)] = (
        *("mmlu", "bbh", "gsm8k", "commonsense_qa", "rte", "sst2", "coqa"),
    )
    include: Annotated[tuple[PathText, ...], Field(strict=False)] = ()
    individuals_per_pass: Whole = 8
    output: PathText | None = None
    engine: LanguageEngine = LanguageEngine()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.run is None and self.base_model is None:
            raise ValueError(
                "run is missing; expected the folder of a finished run, or base_model"
            )
        for name in ("base_model", "dtype", "date"):
            if self.run is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"run and {name} are both given; leave {name} out to take the run's"
                )
        if taken := sorted(self.models.keys() & {"base", *self.individuals}):
            raise ValueError(
                f"models names one {taken[0]!r}; expected a name that is not one of "
                "individuals"
            )
        return self
