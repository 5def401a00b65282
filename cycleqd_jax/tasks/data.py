"""Data files of benchmarks: found or downloaded, read, cut into splits.

Errors name the file and the line.
"""

import ast
import hashlib
import http.client
import os
import pathlib
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, MissingDataError, RunError
from cycleqd_jax.tasks.base import Split

# In this order the splits are cut from a benchmark's shuffled problems.
_ORDER = (Split.TEST, Split.OPTIMISE, Split.VALIDATE, Split.TRAIN)
_TIMEOUT_S = 30.0  # of each step of a connection
_LARGEST = 1 << 26  # bytes of a download; the largest today has 2 MB


def find_file(
    task: str,
    given: str | None,
    file: str,
    download: Callable[[], str | os.PathLike[str]],
    how: str,
) -> pathlib.Path:
    """Finds a data file.

    Args:
      task: the task's name, for messages.
      given: `task_settings.TASK.data`: the file, a folder with it, or None.
      file: its name.
      download: called if `given` is None: fetches the file and returns its path, or
        raises OSError.
      how: the command that fetches it by hand, for messages.

    Raises:
      MissingDataError: it could not be downloaded.
      BadInputError: `given` has no such file.
    """
    if given is not None:
        path = pathlib.Path(given)
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


def download(
    url: str, path: pathlib.Path, unpack: Callable[[bytes], bytes]
) -> pathlib.Path:
    """Fetches a file and keeps it.

    Args:
      url: where it is.
      path: where to keep it.
      unpack: checks what came and returns what to keep; raises ValueError, EOFError or
        zlib.error if it is damaged.

    Returns:
      `path`.

    Raises:
      OSError: it could not be fetched or kept, or it is damaged; nothing is kept then.
    """
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:
            content = unpack(reply.read(_LARGEST))
        files.write_bytes(path, content)
    except (http.client.HTTPException, ValueError, EOFError, zlib.error) as err:
        raise OSError(f"what came from {url} is damaged: {err!r}") from err
    except (OSError, RunError) as err:
        raise OSError(f"{url}: {err}") from err
    return path


def read_jsonl(
    path: str | os.PathLike[str],
    fields: Mapping[str, type | tuple[type, ...]],
    *,
    halves: bool = False,
) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object per line; see `read_lines`."""
    return [row for _, row in read_lines(path, fields, halves=halves)]


def read_lines(
    path: str | os.PathLike[str],
    fields: Mapping[str, type | tuple[type, ...]],
    *,
    halves: bool = False,
) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a file with one JSON object per line, each with its place.

    Args:
      path: of the file, UTF-8.
      fields: name -> type, of what every object must have. Other fields are kept.
      halves: whether texts may have half of a surrogate pair, as replies that were
        recorded elsewhere may.

    Returns:
      For each object its place, "FILE, line 3", and itself.

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
            row = files.parse_json(line, halves=halves)
        except (ValueError, RecursionError) as err:
            cut = number == len(lines) and not line.endswith(b"\n")
            hint = "; the file ends here, so its download was cut off" if cut else ""
            raise BadInputError(f"{where}: not JSON ({err}){hint}.") from err
        if not isinstance(row, dict):
            raise BadInputError(
                f"{where}: expected an object, got {type(row).__name__}."
            )
        check_fields(where, row, fields)
        rows.append((where, row))
    if not rows:
        raise BadInputError(f"{path}: has no line; expected one JSON object per line.")
    return rows


def check_fields(
    where: str,
    row: Mapping[str, Any],
    fields: Mapping[str, type | tuple[type, ...]],
) -> None:
    """Checks that an object has its fields, of the right types.

    Raises:
      BadInputError: begins with `where` and names the first field that is wrong.
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


def read_constant(path: pathlib.Path, name: str, how: str) -> Any:
    """The literal that a Python file assigns to a name. The file is not executed.

    Args:
      path: of the file.
      name: of a variable or an attribute.
      how: the command that fetches the file, for messages.

    Raises:
      BadInputError: the file has no such literal; the text names it.
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
        TypeError,  # a key of a dictionary that is not hashable
        MemoryError,  # what the parser raises for too many levels
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
    """Cuts problems into disjoint splits, each with nearly the same mix of categories.

    Hashes of seed and id decide the order, so no library can change it. `test` is cut
    first: it stays the same when other splits grow.

    Args:
      task: the task's name, for messages.
      strata: problem id -> category.
      sizes: problems per split.
      seed: of the shuffle.

    Raises:
      BadInputError: the sizes add up to more than there are problems.
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
    # Sorted by relative place within the category, every part of the list has nearly
    # the mix of the whole list.
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
    """Checks that all ids are of problems.

    Raises:
      BadInputError: names the first that is not.
    """
    for problem in ids:
        if problem not in known:
            raise BadInputError(
                f"Task {task} has no problem {problem!r}; its {len(known)} problems "
                f"are {next(iter(known))} and the like."
            )
