"""Data files of benchmarks: found, read with errors that name file and line, split."""

import ast
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.tasks.base import Split

# In this order the splits of a benchmark are cut from its shuffled problems.
_ORDER = (Split.TEST, Split.OPTIMISE, Split.VALIDATE, Split.TRAIN)


def find_file(
    task: str,
    given: str | None,
    file: str,
    download: Callable[[], str | os.PathLike[str]],
    how: str,
) -> pathlib.Path:
    """Where a data file is.

    Args:
      task: its name, for the message.
      given: `task_settings.TASK.data`: the file, or a folder that holds it under its
        name or under a folder of the task's.
      file: its name.
      download: fetches it and says where it is, an `OSError` where it cannot; asked
        where nothing was given.
      how: the command that fetches it by hand.

    Raises:
      MissingDataError: it is not here.
      BadInputError: what was given is not there.
    """
    if given is not None:
        path = pathlib.Path(given).expanduser()
        if path.is_dir() and (path / file).is_file():
            path = path / file
        if path.is_file():
            return path
        raise BadInputError(
            f"task_settings.{task}.data: expected the file {file} or a folder that has "
            f"it, but there is none at {path}; get it with: {how}"
        )
    try:
        return pathlib.Path(download())
    except (OSError, ValueError) as err:  # the hub's errors are kinds of both
        raise MissingDataError(
            f"Task {task} needs {file}, which task_settings.{task}.data does not name, "
            f"and it could not be downloaded ({err}); get it with: {how}"
        ) from err


def read_jsonl(
    path: str | os.PathLike[str], fields: Mapping[str, type | tuple[type, ...]]
) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object per line.

    Args:
      path: of the file, UTF-8.
      fields: name -> type of what every object must have; others are kept too.

    Raises:
      BadInputError: names the file and the line, and says what is wrong there.
    """
    path = pathlib.Path(path)
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as err:
        raise BadInputError(f"{path}: cannot be read ({err.strerror}).") from err
    rows = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as err:
            cut = number == len(lines) and not line.endswith(b"\n")
            hint = "; the file ends here, so its download was cut off" if cut else ""
            raise BadInputError(f"{where}: not JSON ({err}){hint}.") from err
        if not isinstance(row, dict):
            raise BadInputError(
                f"{where}: expected an object, got {type(row).__name__}."
            )
        check_fields(where, row, fields)
        rows.append(row)
    if not rows:
        raise BadInputError(f"{path}: has no line; expected one JSON object per line.")
    return rows


def check_fields(
    where: str,
    row: Mapping[str, Any],
    fields: Mapping[str, type | tuple[type, ...]],
) -> None:
    """An object has its fields.

    Raises:
      BadInputError: begins with `where` and names the first that is wrong.
    """
    for name, kind in fields.items():
        if name not in row:
            raise BadInputError(f"{where}: the field {name!r} is missing.")
        if not isinstance(row[name], kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            expected = " or ".join(k.__name__ for k in kinds)
            raise BadInputError(
                f"{where}: the field {name!r} is {type(row[name]).__name__}; "
                f"expected {expected}."
            )


def read_json(path: pathlib.Path) -> Any:
    """What a JSON file holds.

    Raises:
      BadInputError: names the file.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except OSError as err:
        raise BadInputError(f"{path}: cannot be read ({err.strerror}).") from err
    except (ValueError, RecursionError) as err:
        raise BadInputError(f"{path}: cannot be read as JSON ({err}).") from err


def read_constant(path: pathlib.Path, name: str, how: str) -> Any:
    """The literal that a Python file gives to a name; the file is not run.

    Args:
      path: of the file.
      name: a variable's or an attribute's.
      how: the command that fetches the file.

    Raises:
      BadInputError: names the file.
    """
    try:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
                if name in (getattr(target, "id", ""), getattr(target, "attr", "")):
                    return ast.literal_eval(node.value)
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,  # a dictionary's key that cannot be one
        MemoryError,  # the parser's word for what is nested too deeply
        RecursionError,
    ) as err:
        raise BadInputError(f"{path}: {name} cannot be read from it ({err}).") from err
    raise BadInputError(f"{path}: has no {name}; fetch it again with: {how}")


def file_hash(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seeded_splits(
    task: str,
    strata: Mapping[str, str],
    sizes: Mapping[Split, int],
    seed: int,
) -> dict[Split, tuple[str, ...]]:
    """Disjoint splits, each with nearly the benchmark's own mix of categories.

    The order is decided by hashes of seed and id, so it depends on no library. Test is
    cut first: it stays the same when more problems are asked for elsewhere.

    Args:
      task: its name, for messages.
      strata: problem id -> category; one category for all if there are none.
      sizes: problems per split.
      seed: of the shuffle.

    Raises:
      BadInputError: more are asked for than there are.
    """
    asked = sum(sizes.values())
    if asked > len(strata):
        parts = " + ".join(f"{sizes.get(s, 0)} {s}" for s in _ORDER if sizes.get(s))
        raise BadInputError(
            f"problems: {parts} make {asked}, but {task} has only {len(strata)} "
            "problems; ask for fewer."
        )

    def draw(text: str) -> str:
        return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()

    by_category: dict[str, list[str]] = {}
    for problem in sorted(strata, key=draw):
        by_category.setdefault(strata[problem], []).append(problem)
    # Each problem's place within its category, as a share: sorted by it, every
    # stretch of the list has nearly the mix of the whole.
    places = {
        problem: ((index + 0.5) / len(members), draw(problem))
        for members in by_category.values()
        for index, problem in enumerate(members)
    }
    order, start, splits = sorted(places, key=lambda p: places[p]), 0, {}
    for split in _ORDER:
        end = start + sizes.get(split, 0)
        splits[split] = tuple(order[start:end])
        start = end
    return splits


def check_ids(task: str, ids: Sequence[str], known: Mapping[str, Any]) -> None:
    """All ids are problems.

    Raises:
      BadInputError: names the first that is none.
    """
    for problem in ids:
        if problem not in known:
            raise BadInputError(
                f"Task {task} has no problem {problem!r}; its {len(known)} problems "
                f"are {next(iter(known))} and the like."
            )
