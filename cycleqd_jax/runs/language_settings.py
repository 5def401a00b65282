"""The settings of a measurement of language retention."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cycleqd_jax.files import Count, Date, EachOnce, Name, PathText, Text, Whole
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.tasks.harness.settings import PromptSettings

EXPERTS = "experts"  # stands for all experts of a run


class LanguageEngine(EngineSettings):
    """The engine's settings, with defaults for prompts of very different lengths."""

    slots: Literal["auto"] | Whole = "auto"
    length: Literal["auto"] | Whole = "auto"
    prefill_rows: Whole = 16
    deterministic: bool = False


class ScoreSettings(PromptSettings):
    """The settings that decide scores; `docs/language.md` describes all."""

    limit: Whole | None = None
    chat_template_args: Mapping[Text, Any] = {}
    max_length: Whole | None = None
    date: Date | None = None
    bootstrap_iters: Count = 1000
    unsafe_code: bool = False


class LanguageConfig(ScoreSettings):
    """The models, and the tasks of lm-evaluation-harness to run on them."""

    run: PathText | None = None
    individuals: EachOnce[Text] = ("base", EXPERTS, "aggregated")
    base_model: PathText | None = None
    models: Mapping[Name, PathText] = {}
    dtype: Literal["float32", "bfloat16"] | None = None
    tasks: Annotated[EachOnce[Text], Field(min_length=1)] = (
        *("mmlu", "bbh", "gsm8k", "commonsense_qa", "rte", "sst2", "coqa"),
    )
    include: Annotated[tuple[PathText, ...], Field(strict=False)] = ()
    individuals_per_pass: Whole = 8
    output: PathText | None = None
    engine: LanguageEngine = LanguageEngine()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.run is None and self.base_model is None:
            raise ValueError("run is missing; expected a run folder, or base_model")
        for name in ("base_model", "dtype", "date"):
            if self.run is not None and getattr(self, name) is not None:
                raise ValueError(f"run and {name} are both given; leave {name} out")
        if taken := sorted(self.models.keys() & {"base", *self.individuals}):
            raise ValueError(f"models: {taken[0]!r} is an individual; rename the model")
        return self
