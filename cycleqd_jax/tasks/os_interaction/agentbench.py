"""Reads the problems from the folder data/os_interaction of AgentBench's repository.

They get the numbers that they have in the paper's code. Its order is: data/1 to data/7,
each with its files by name, then data/dev.json; of each file, the problems whose answer
is matched come first.
"""

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import read_json
from cycleqd_jax.tasks.data import check_fields
from cycleqd_jax.tasks.os_interaction.problems import OsProblem, make_problems

_GROUPS = "1234567"
_DEV = "dev"
_PROBLEMS = 170


def is_agentbench(folder: pathlib.Path) -> bool:
    """True if the folder has AgentBench's sub-folders."""
    return (folder / "data" / "1").is_dir() and (folder / "scripts").is_dir()


def read_folder(folder: pathlib.Path) -> dict[int, OsProblem]:
    """All problems by number.

    Raises:
      BadInputError: names the file and the place in it.
    """
    problems = make_problems(_rows(folder))
    if len(problems) != _PROBLEMS:
        raise BadInputError(
            f"{folder}: expected AgentBench's {_PROBLEMS} problems, whose numbers say "
            f"what each of them needs, got {len(problems)}; clone it again."
        )
    return problems


def _rows(folder: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    numbers = itertools.count()
    for path, scripts in _files(folder):
        name = f"data/os_interaction/{path.relative_to(folder).as_posix()}"
        content = read_json(path)
        items = content if isinstance(content, list) else [content]
        rows = [
            (where := f"{path}, problem {place}", _row(where, item, scripts))
            for place, item in enumerate(items)
        ]
        for where, row in sorted(rows, key=lambda pair: pair[1]["match"] is None):
            yield where, {"index": next(numbers), "file": name, **row}


def _files(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """The files with problems in order, each with the folder of its scripts."""
    for group in _GROUPS:
        for path in sorted((folder / "data" / group).glob("*.json")):
            yield path, folder / "scripts" / group
    yield folder / "data" / f"{_DEV}.json", folder / "scripts" / _DEV


def _row(where: str, item: Any, scripts: pathlib.Path) -> dict[str, Any]:
    """A problem as in `problems.jsonl`."""
    if not isinstance(item, dict):
        raise BadInputError(f"{where}: expected an object.")
    check_fields(where, item, {"description": str, "evaluation": dict})
    create, judging = item.get("create"), item["evaluation"]
    if not isinstance(create, dict):  # one problem has a list here, which means nothing
        create = {}
    match, check = judging.get("match"), judging.get("check")
    if isinstance(match, str):
        match = {"answer": match, "strip": True}
    example = judging.get("example")
    if match is not None:
        check = example = None

    def read(script: Any) -> Any:
        return _script(where, script, scripts)

    return {
        "description": item["description"],
        "init_script": [read(s) for s in _list(create.get("init", []))],
        "start": read(item.get("start")),
        "match": match,
        "check": None if check is None else [read(s) for s in _list(check)],
        "example_script": read(example),
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _script(where: str, script: Any, folder: pathlib.Path) -> Any:
    """A script with its text, which may be in a file of its own."""
    if isinstance(script, str):
        return {"language": "bash", "code": script}
    if not isinstance(script, dict):
        return script
    code = script.get("code")
    if isinstance(file := script.get("file"), str):
        try:
            path = (folder / file).resolve()
            if not path.is_relative_to(folder.resolve()):
                raise ValueError(f"it is not below {folder}")
            code = path.read_text("utf-8")
        except (OSError, ValueError) as err:
            raise BadInputError(
                f"{where}: its script {file} cannot be read ({err})."
            ) from err
    return {"language": script.get("language", "bash"), "code": code}
