"""The settings of the coding benchmarks, `task_settings.mbpp` and `.humaneval`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from cycleqd_jax.files import PathText, Section, Seed, Text, Whole, parse_section


class CodingOptions(Section):
    """Settings of a coding benchmark. The defaults are EvalPlus's where it has them.

    Attributes:
      data: EvalPlus's data file, or a folder with it; None to take it from EvalPlus's
        cache folder or download its release.
      version: of the data, like "v0.2.0"; None for that of EvalPlus 0.3.1. A file that
        is known to have another version is refused.
      sha256: hash that the file must have; None for any.
      split: "seeded" for disjoint splits; "reference" to optimise on all problems of
        the file, as in the published experiments; "test" to report on all of them, for
        a task of `out_of_domain`.
      prompt: "chat" for the model's own template, "reference" for the published one.
      sanitizer: "evalplus", or "reference" for EvalPlus's legacy one, which the
        published experiments used and which throws away many right answers.
      rules: of comparison and time: those of EvalPlus 0.3.1, or those of the commit
        that the published experiments used.
      samples: replies per problem. The first decides the outcome, all of them the
        metrics.
      temperature: of the replies; above 0 if there are several.
      top_p: of the replies.
      seed: of the replies' random numbers.
      max_new_tokens: per reply.
    """

    data: PathText | None = None
    version: Text | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    split: Literal["seeded", "reference", "test"] = "seeded"
    prompt: Literal["chat", "reference"] = "chat"
    sanitizer: Literal["evalplus", "reference"] = "evalplus"
    rules: Literal["evalplus", "reference"] = "evalplus"
    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Seed = 0
    max_new_tokens: Whole = 512

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples is {self.samples} with temperature 0, "
                "which would give the same reply as often; set temperature above 0"
            )
        return self


def parse_options(task: str, options: Mapping[str, Any]) -> CodingOptions:
    """Reads `task_settings.TASK`.

    Raises:
      BadInputError: one sentence with the key, the value and what is allowed.
    """
    return parse_section(f"task_settings.{task}", options, CodingOptions)
