"""The settings of DBBench in a config: `task_settings.dbbench`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from cycleqd_jax.files import PathText, Section, Text, Whole, parse_section


class Options(Section):
    """The source of the problems and how they are run; defaults are the reference's.

    Attributes:
      data: the problem file, or the folder that has `cycleqd_standard_dev.jsonl`; left
        out, it is downloaded from the reference's repository.
      split: "seeded" cuts disjoint splits that all have the same mix of types;
        "reference" optimises on the reference's list of problems, and the other splits
        share the rest.
      rounds: statements an episode may run; one more reply may answer.
      backend: "private", a MariaDB that the run starts for itself, or "server", a
        MySQL or MariaDB server that is there.
      url: of the server, `mysql://user:password@host:port`; "server" only. Left out,
        the environment variable CYCLEQD_MYSQL_URL gives it, which keeps the password
        out of files.
      connections: statements that run at the same time.
      statement_s: seconds the server gives one statement; a longer one fails with an
        error that the model is shown.
      legacy_shared_database: problems whose tables have the same name share a
        database, as in the reference; only for a comparison with it.
      chat_template: "model" uses the model's own, "reference" the one in
        `chat_templates.json` beside the data.
      max_new_tokens: of one reply.
    """

    data: PathText | None = None
    split: Literal["seeded", "reference"] = "seeded"
    rounds: Whole = 5
    backend: Literal["private", "server"] = "private"
    url: Text | None = None
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    statement_s: Annotated[float, Field(ge=0.001, le=3600)] = 30.0
    legacy_shared_database: bool = False
    chat_template: Literal["model", "reference"] = "model"
    max_new_tokens: Whole = 512

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.backend == "private" and self.url is not None:
            raise ValueError(
                "url is set, but backend is private; expected backend: server, or no "
                "url"
            )
        return self


def read_options(given: Mapping[str, Any]) -> Options:
    """The options of a config.

    Raises:
      BadInputError: one sentence with the key, the value and what is allowed.
    """
    return parse_section("task_settings.dbbench", given, Options)
