"""Problems and prompt of OS interaction, from `problems.jsonl` and `prompt.json`."""

import dataclasses
import pathlib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import read_json
from cycleqd_jax.tasks.data import check_fields, read_lines

_FIELDS = {
    "index": int,
    "description": str,
    "init_script": list,
    "start": (dict, type(None)),
    "match": (dict, type(None)),
    "check": (list, type(None)),
    "example_script": (dict, type(None)),
}


@dataclasses.dataclass(frozen=True)
class Script:
    """A script of the benchmark.

    Attributes:
      language: "bash" or "python".
      code: the script.
    """

    language: str
    code: str


@dataclasses.dataclass(frozen=True)
class OsProblem:
    """One problem.

    Attributes:
      index: its number.
      group: the benchmark's file that it comes from.
      description: what the model is asked.
      init: scripts that prepare the system.
      start: what is typed into the shell first.
      match: the right answer, or None if scripts check the answer.
      strip: whether to remove white space at the ends of an answer.
      check: scripts, in order; None stands for `example`.
      example: a script that solves the problem or prints the right answer.
    """

    index: int
    group: str
    description: str
    init: tuple[Script, ...]
    start: Script | None
    match: str | None
    strip: bool
    check: tuple[Script | None, ...]
    example: Script | None

    @property
    def scripts(self) -> tuple[Script, ...]:
        """The scripts that judge, in order."""
        return tuple(script or self.example for script in self.check)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The messages around a problem.

    Attributes:
      prefix: the messages before it: rules and a worked example.
      last: text of the user message, with `{description}`.
    """

    prefix: tuple[Mapping[str, str], ...]
    last: str

    def messages(self, description: str) -> list[Mapping[str, str]]:
        """The conversation before the first reply."""
        return [*self.prefix, {"role": "user", "content": self.text(description)}]

    def text(self, description: str) -> str:
        """The user message."""
        return self.last.replace("{description}", description)


def read_problems(path: pathlib.Path) -> dict[int, OsProblem]:
    """All problems by index.

    Raises:
      BadInputError: names file and line.
    """
    return make_problems(read_lines(path, _FIELDS))


def make_problems(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
) -> dict[int, OsProblem]:
    """All problems by index.

    Args:
      rows: for each problem its place, for messages, and its fields as in
        `problems.jsonl`.

    Raises:
      BadInputError: names the place.
    """
    problems: dict[int, OsProblem] = {}
    for where, row in rows:
        problem = _problem(where, row)
        if problem.index in problems:
            raise BadInputError(f"{where}: the index {problem.index} is there twice.")
        problems[problem.index] = problem
    return problems


def read_prompt(path: pathlib.Path) -> Prompt:
    """The messages of `prompt.json`.

    Raises:
      BadInputError: names the file.
    """
    data = read_json(path)
    try:
        prefix = tuple(
            {"role": str(m["role"]), "content": str(m["content"])}
            for m in data["prefix_messages"]
        )
        last = str(data["last_message"]["content"])
    except (KeyError, TypeError) as err:
        raise BadInputError(
            f"{path}: expected prefix_messages and last_message with role and content, "
            f"but {err} is missing or of another type."
        ) from err
    if "{description}" not in last:
        raise BadInputError(f"{path}: last_message has no {{description}} in it.")
    return Prompt(prefix, last)


def _problem(where: str, row: Mapping[str, Any]) -> OsProblem:
    check_fields(where, row, _FIELDS)
    match, check = row["match"], row["check"]
    if (match is None) == (check is None):
        raise BadInputError(
            f"{where}: expected either 'match' or 'check', got "
            f"{'neither' if match is None else 'both'}."
        )
    example = row["example_script"] and _script(where, row["example_script"])
    if match is not None and not isinstance(match.get("answer"), str):
        raise BadInputError(f"{where}: 'match' has no text 'answer'.")
    scripts = tuple(None if c is None else _script(where, c) for c in check or ())
    if None in scripts and example is None:
        raise BadInputError(f"{where}: 'check' has null but 'example_script' is null.")
    return OsProblem(
        index=row["index"],
        group=str(row.get("file", "")),
        description=row["description"],
        init=tuple(_script(where, s) for s in row["init_script"]),
        start=row["start"] and _script(where, row["start"]),
        match=match["answer"] if match is not None else None,
        strip=bool(match.get("strip", True)) if match is not None else False,
        check=scripts,
        example=example,
    )


def _script(where: str, data: Any) -> Script:
    if (
        not isinstance(data, dict)
        or data.get("language") not in ("bash", "python")
        or not isinstance(data.get("code"), str)
        or "\0" in data["code"]
    ):
        raise BadInputError(
            f"{where}: expected a script with a 'language', bash or python, and its "
            f"text as 'code', got {reprlib.repr(data)}."
        )
    return Script(data["language"], data["code"])
