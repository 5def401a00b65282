"""BigCodeBench's data file: found, checked, read.

The format is that of the published data set `bigcode/bigcodebench` as one JSON object
per line, as the package `bigcodebench` keeps it. Source: bigcodebench 0.2.5.
"""

import ast
import dataclasses
import pathlib
import shutil
import subprocess
from collections.abc import Collection, Mapping
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.base import ENVIRONMENT
from cycleqd_jax.tasks.bigcodebench.options import BigCodeBenchOptions
from cycleqd_jax.tasks.data import file_hash, find_file, read_lines

NAME = "bigcodebench"
_FIELDS = {
    "task_id": str,
    "complete_prompt": str,
    "instruct_prompt": str,
    "code_prompt": str,
    "canonical_solution": str,
    "test": str,
    "entry_point": str,
    "libs": (str, list),  # the hub has a text like "['os', 'pandas']"
}
_LOOK = (
    "import importlib.util, sys; "
    "print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n) is None])"
)
_SHOWN = 8  # libraries that a message names


@dataclasses.dataclass(frozen=True)
class BigCodeProblem:
    """One problem.

    Attributes:
      id: like "BigCodeBench/2".
      complete: the module's beginning: imports, head and docstring of the function.
      instruct: the same in words.
      begun: imports and head of the function, without docstring.
      solution: completes `complete` to a right module.
      test: code of a module with the class `TestCases`.
      entry_point: name of the function.
      libraries: names of top-level modules that solution or tests import.
    """

    id: str
    complete: str
    instruct: str
    begun: str
    solution: str
    test: str
    entry_point: str
    libraries: tuple[str, ...]


def file_name(options: BigCodeBenchOptions) -> str:
    """The name that the package gives the file."""
    hard = "-Hard" if options.subset == "hard" else ""
    return f"BigCodeBench{hard}-{options.version}.jsonl"


def find_data(options: BigCodeBenchOptions) -> pathlib.Path:
    """The file, from `data` or the package's cache folder.

    Raises:
      MissingDataError: it is not here; says how to get it.
      BadInputError: `data` does not have it.
    """
    name = file_name(options)

    def look() -> pathlib.Path:
        path = files.cache_folder(NAME) / name
        if not path.is_file():
            raise OSError(f"there is none at {path}, and nothing is downloaded")
        return path

    hub = "bigcode/bigcodebench" + ("-hard" if options.subset == "hard" else "")
    code = f"load_dataset('{hub}', split='{options.version}').to_json('{name}')"
    how = f'python -c "from datasets import load_dataset; {code}"'
    return find_file(NAME, options.data, name, look, how)


def read_data(
    path: pathlib.Path, sha256: str | None
) -> tuple[dict[str, BigCodeProblem], str]:
    """Reads and checks a whole file.

    Args:
      path: of the file.
      sha256: hex hash that it must have; None for any.

    Returns:
      The problems by id, in the order of the file, and the file's hash.

    Raises:
      BadInputError: names the file and the line, or the file and both hashes.
    """
    rows, actual = read_lines(path, _FIELDS), file_hash(path)
    if sha256 is not None and actual != sha256.lower():
        raise BadInputError(
            f"{path}: expected the file with SHA-256 {sha256.lower()}, got {actual}; "
            "get it again, or correct task_settings.bigcodebench.sha256."
        )
    problems: dict[str, BigCodeProblem] = {}
    for where, row in rows:
        problem = _problem(where, row)
        if problem.id in problems:
            raise BadInputError(f"{where}: {problem.id} is there twice.")
        problems[problem.id] = problem
    return problems, actual


def missing_libraries(names: Collection[str]) -> tuple[str, ...]:
    """The modules that the Python of the sandbox cannot find; none is imported.

    Raises:
      BadInputError: there is no `python3`, or it fails.
    """
    python = shutil.which("python3", path=ENVIRONMENT["PATH"])
    try:
        if python is None:
            raise OSError("there is none in " + ENVIRONMENT["PATH"])
        found = subprocess.run(
            [python, "-s", "-c", _LOOK, *sorted(names)],
            capture_output=True,
            check=True,
            timeout=60,
            cwd="/",
            env=ENVIRONMENT,
        )
    except (OSError, subprocess.SubprocessError) as err:
        raise BadInputError(
            f"bigcodebench: python3 of the sandbox could not be asked for its "
            f"libraries ({err}); install Python on this machine."
        ) from err
    return tuple(found.stdout.decode().split())


def without_missing(
    problems: Mapping[str, BigCodeProblem], path: pathlib.Path, which: str
) -> dict[str, BigCodeProblem]:
    """The problems whose libraries the sandbox has.

    Args:
      problems: all of the file.
      path: of the file.
      which: "all" or "present", see `BigCodeBenchOptions.libraries`.

    Raises:
      BadInputError: a library is missing and `which` is "all", or no problem is left.
    """
    asked = {name for problem in problems.values() for name in problem.libraries}
    missing = set(missing_libraries(asked))
    left = {k: p for k, p in problems.items() if not missing.intersection(p.libraries)}
    if missing and (which == "all" or not left):
        named = ", ".join(sorted(missing)[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise BadInputError(
            f"bigcodebench: {len(problems) - len(left)} of the {len(problems)} "
            f"problems of {path} need libraries that the sandbox's python3 does not "
            f"have ({named}{more}); install them for the system's Python, or leave "
            "these problems out with task_settings.bigcodebench.libraries=present."
        )
    return left


def _problem(where: str, row: Mapping[str, Any]) -> BigCodeProblem:
    task_id, entry_point = row["task_id"], row["entry_point"]
    number = task_id.removeprefix("BigCodeBench/")
    if number == task_id or not (number.isascii() and number.isdigit()):
        raise BadInputError(
            f"{where}: task_id is {task_id!r}; expected BigCodeBench/NUMBER, as "
            "BigCodeBench has it."
        )
    if not entry_point.isidentifier():
        raise BadInputError(
            f"{where}: entry_point of {task_id} is {entry_point!r}; expected the name "
            "of a function."
        )
    if "class TestCases" not in row["test"]:
        raise BadInputError(f"{where}: test of {task_id} has no class TestCases.")
    libraries = row["libs"]
    try:
        if isinstance(libraries, str):
            libraries = ast.literal_eval(libraries)
        if not isinstance(libraries, list) or not all(
            isinstance(name, str) and name.isidentifier() for name in libraries
        ):
            raise ValueError("it is no list of names")
    except (ValueError, SyntaxError, MemoryError, RecursionError) as err:
        raise BadInputError(
            f"{where}: libs of {task_id} is {row['libs']!r:.80}; expected names of "
            "modules, like ['os', 'pandas']."
        ) from err
    return BigCodeProblem(
        task_id,
        row["complete_prompt"],
        row["instruct_prompt"],
        row["code_prompt"],
        row["canonical_solution"],
        row["test"],
        entry_point,
        tuple(libraries),
    )
