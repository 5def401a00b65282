"""The settings of OS interaction, `task_settings.os_interaction` of a config."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from cycleqd_jax.files import PathText, Section, Text, Whole, parse_section


class Options(Section):
    """Settings of OS interaction. Defaults are the reference's unless marked ours.

    Attributes:
      data: folder with the reference's samples.pkl and agentbench_os.py, or with
        problems.jsonl, prompt.json and cycleqd_task_ids.json; None to download the
        reference's files.
      split: "seeded" cuts the problems that this backend can run into splits;
        "reference" makes the reference's 110 problems `optimise`, and nothing else.
      rounds: most replies of an episode; AgentBench has 8.
      backend: "host": the machine's own programs, read-only; "overlay": they, or those
        of `image`, can be changed for the episode; "container": the same, with an
        image of Docker or Podman.
        "auto", ours: overlay for the problems that need it and host for all others.
      image: for "overlay" a folder with a root file system, for "container" the name of
        an image.
      engine: for "container" the command of Podman or Docker and its first arguments;
        None for the first of them that has the image.
      terminal: "clean", ours: what commands print; "reference": everything that a
        terminal shows, with prompts and escape sequences.
      turn_s: seconds for the commands of a turn.
      repetitions: episodes per problem; the reference's quality is the mean over five.
      sessions: most episodes at once, ours; others wait.
      max_new_tokens: per reply.
    """

    data: PathText | None = None
    split: Literal["seeded", "reference"] = "seeded"
    rounds: Annotated[int, Field(ge=1, le=100)] = 5
    backend: Literal["auto", "host", "overlay", "container"] = "auto"
    image: PathText | None = None
    engine: Text | None = None
    terminal: Literal["clean", "reference"] = "clean"
    turn_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    repetitions: Annotated[int, Field(ge=1, le=100)] = 1
    sessions: Annotated[int, Field(ge=1, le=1000)] = 64
    max_new_tokens: Whole = 512

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.image is not None and self.backend not in ("overlay", "container"):
            raise ValueError(
                f"image is {self.image!r}, but backend is {self.backend}; "
                "expected overlay or container with an image"
            )
        if self.image is None and self.backend == "container":
            raise ValueError(
                "backend is container; expected the name of an image as image"
            )
        return self


def parse_options(given: Mapping[str, Any]) -> Options:
    """Checks them.

    Raises:
      BadInputError: one sentence with the key, the value and what is allowed.
    """
    return parse_section("task_settings.os_interaction", given, Options)
