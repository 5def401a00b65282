"""The settings of BigCodeBench, `task_settings.bigcodebench`."""

from typing import Annotated, Literal

from pydantic import Field

from cycleqd_jax.files import PathText, Section, Text, Whole


class BigCodeBenchOptions(Section):
    """Settings of BigCodeBench; the defaults are the benchmark's where it has them.

    Attributes:
      data: the file, one JSON object per line, or a folder with it; None takes it from
        the cache folder of the package `bigcodebench`.
      version: of the data.
      subset: "full" has 1140 problems, "hard" has 148; decides the name of the file.
      sha256: hash that the file must have; None for any.
      split: "seeded" for `problems.test` problems, "test" for all of the file.
      prompt: "instruct" describes the function in words, "complete" begins it.
      libraries: "all" refuses to begin where a library is missing that a problem names,
        "present" leaves out such problems.
      timeout_s: CPU seconds for all tests of a problem, on a nominal machine.
      max_new_tokens: of a reply.
    """

    data: PathText | None = None
    version: Text = "v0.1.4"
    subset: Literal["full", "hard"] = "full"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    split: Literal["seeded", "test"] = "seeded"
    prompt: Literal["instruct", "complete"] = "instruct"
    libraries: Literal["all", "present"] = "all"
    timeout_s: Annotated[float, Field(ge=1, le=3600)] = 240.0
    max_new_tokens: Whole = 1280
