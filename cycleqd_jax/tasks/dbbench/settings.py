"""What a config may say of DBBench, `task_settings.dbbench`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field, PositiveFloat

from cycleqd_jax.files import PathText, Section, Text, Whole, parse_section


class Options(Section):
    """How the problems are had, run and judged; defaults are the reference's or ours.

    Attributes:
      data: the problem file, or the folder that has `cycleqd_standard_dev.jsonl`; left
        out, it is downloaded from the reference's repository.
      split: "seeded" cuts disjoint splits that all have the same mix of types;
        "reference" optimises on the reference's list of problems, the other splits
        share what is left.
      rounds: statements an episode may run; one reply more may answer.
      backend: "sqlite", embedded, or "mysql", a MySQL or MariaDB server.
      flavour: whose dialect "sqlite" speaks where they differ, "mariadb" 10.11's, with
        which the recorded verdicts were made, or "mysql8"; "sqlite" only.
      url: of the server, `mysql://user:password@host:port`; left out, the environment
        variable CYCLEQD_MYSQL_URL says it, which keeps a password out of files.
      connections: statements at a time that the server is asked to run; "mysql" only.
      statement_s: seconds the server gives one statement; longer ones fail with an
        error that the model is shown; "mysql" only.
      legacy_shared_database: problems with one table name share a database, as they do
        in the reference; for comparison with it only.
      chat_template: "model" uses the model's own, "reference" the one of
        `chat_templates.json` beside the data, whatever the model.
      max_new_tokens: of one reply.
    """

    data: PathText | None = None
    split: Literal["seeded", "reference"] = "seeded"
    rounds: Whole = 5
    backend: Literal["sqlite", "mysql"] = "sqlite"
    flavour: Literal["mariadb", "mysql8"] = "mariadb"
    url: Text | None = None
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    statement_s: PositiveFloat = 30.0
    legacy_shared_database: bool = False
    chat_template: Literal["model", "reference"] = "model"
    max_new_tokens: Whole = 512

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.backend == "sqlite" and self.url is not None:
            raise ValueError(
                "url is set, but backend is sqlite; expected backend: mysql, or no url"
            )
        if self.backend == "sqlite" and self.legacy_shared_database:
            raise ValueError(
                "legacy_shared_database is true, but backend is sqlite; expected "
                "backend: mysql"
            )
        return self


def read_options(given: Mapping[str, Any]) -> Options:
    """The options of a config.

    Raises:
      BadInputError: one sentence with the key, the value and what is allowed.
    """
    return parse_section("task_settings.dbbench", given, Options)
