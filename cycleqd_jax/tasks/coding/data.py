"""EvalPlus's data files: found, checked, read."""

import dataclasses
import gzip
import hashlib
import json
import logging
import os
import pathlib
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.coding.inputs import mbpp_inputs
from cycleqd_jax.tasks.data import file_hash, find_file, read_jsonl

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 60.0
_FIELDS = {
    "task_id": str,
    "prompt": str,
    "entry_point": str,
    "canonical_solution": str,
    "base_input": list,
    "plus_input": (list, dict),  # {} where there are none
    "atol": (int, float),
}


@dataclasses.dataclass(frozen=True)
class Release:
    """Where a data set comes from.

    Attributes:
      dataset: "mbpp" or "humaneval".
      title: for messages.
      stem: of EvalPlus's file names.
      default: version that EvalPlus 0.3.1 uses.
      known: MD5 -> version.
      files: other names that the file may have in a folder, by version.
    """

    dataset: str
    title: str
    stem: str
    default: str
    known: Mapping[str, str]
    files: Mapping[str, str]

    def url(self, version: str) -> str:
        """Of the compressed file."""
        return (
            f"https://github.com/evalplus/{self.stem.lower()}_release/releases/"
            f"download/{version}/{self.stem}.jsonl.gz"
        )

    def how(self, version: str) -> str:
        """The command that fetches the file."""
        return f"curl -L {self.url(version)} | gunzip > {self.stem}-{version}.jsonl"


MBPP = Release(
    "mbpp",
    "MBPP+",
    "MbppPlus",
    "v0.2.0",
    {
        "ee43ecabebf20deef4bb776a405ac5b1": "v0.2.0",
        "438cd483582bf71c27eb976bc8113cce": "v0.1.0",
    },
    {"v0.2.0": "mbpp_plus.jsonl", "v0.1.0": "mbpp_plus_v0.1.0.jsonl"},
)
HUMANEVAL = Release(
    "humaneval",
    "HumanEval+",
    "HumanEvalPlus",
    "v0.1.10",
    {},
    {"v0.1.10": "humaneval_plus.jsonl"},
)


@dataclasses.dataclass(frozen=True)
class CodingProblem:
    """One problem.

    Attributes:
      id: like "Mbpp/2".
      prompt: the file's.
      entry_point: name of the function that is called.
      solution: completes the prompt to a right program.
      inputs: "base" and "plus" -> arguments of each call.
      atol: absolute tolerance; 0 if none.
    """

    id: str
    prompt: str
    entry_point: str
    solution: str
    inputs: Mapping[str, list[list[Any]]]
    atol: float


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A file that was read.

    Attributes:
      path: of the file.
      version: of the release with this content, else "md5:" and its hash.
      sha256: of the content, hex.
      problems: by id, in the order of the file.
    """

    path: pathlib.Path
    version: str
    sha256: str
    problems: Mapping[str, CodingProblem]


def find_data(
    release: Release, given: str | None, version: str | None, download: bool
) -> pathlib.Path:
    """The file of a release, from `given`, EvalPlus's cache folder or the network.

    Raises:
      MissingDataError: it is not here and cannot be had.
      BadInputError: `given` does not have it.
    """
    wanted = version or release.default
    names = [f"{release.stem}-{wanted}.jsonl", f"{release.stem}.jsonl"]
    if wanted in release.files:
        names.insert(0, release.files[wanted])
    if given is not None and pathlib.Path(given).expanduser().is_dir():
        folder = pathlib.Path(given).expanduser()
        names = [name for name in names if (folder / name).is_file()] or names
    return find_file(
        release.dataset,
        given,
        names[0],
        lambda: str(_fetch(release, wanted, download)),
        release.how(wanted),
    )


def read_data(
    release: Release, path: pathlib.Path, version: str | None, sha256: str | None
) -> DataSet:
    """Reads and checks all of a file.

    Args:
      release: what it should be.
      path: of the file.
      version: that it must be, where the hash of that version is known.
      sha256: hex hash that it must have; None for any.

    Raises:
      BadInputError: names the file and the line, or the file and both hashes.
    """
    rows = read_jsonl(path, _FIELDS)
    actual = file_hash(path)
    if sha256 is not None and actual != sha256.lower():
        raise BadInputError(
            f"{path}: expected the file with SHA-256 {sha256.lower()}, got {actual}; "
            f"get it again with: {release.how(version or release.default)}"
        )
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    found = release.known.get(md5, f"md5:{md5}")
    if version in release.known.values() and found != version:
        raise BadInputError(
            f"{path}: expected {release.title} {version}, got "
            f"{found}; get it with: {release.how(version)}"
        )
    if md5 not in release.known and release.known:
        _LOG.warning(
            "%s is no known version of %s; it is recorded by its hash, MD5 %s.",
            path,
            release.title,
            md5,
        )
    problems: dict[str, CodingProblem] = {}
    # Blank lines are skipped by the reader, so numbers are counted the same way.
    lines = [n for n, line in enumerate(_lines(path), 1) if line.strip()]
    for line, row in zip(lines, rows, strict=True):
        problem = _problem(release, f"{path}, line {line}", row)
        if problem.id in problems:
            raise BadInputError(f"{path}, line {line}: {problem.id} is there twice.")
        problems[problem.id] = problem
    return DataSet(path, found, actual, problems)


def _lines(path: pathlib.Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def _problem(release: Release, where: str, row: Mapping[str, Any]) -> CodingProblem:
    """One row as a problem."""
    task_id, entry_point = row["task_id"], row["entry_point"]
    prefix = {"mbpp": "Mbpp/", "humaneval": "HumanEval/"}[release.dataset]
    number = task_id.removeprefix(prefix)
    if not task_id.startswith(prefix) or not (number.isascii() and number.isdigit()):
        raise BadInputError(
            f"{where}: task_id is {task_id!r}; expected {prefix}NUMBER, as "
            f"{release.title} has it."
        )
    if not entry_point.isidentifier():
        raise BadInputError(
            f"{where}: entry_point of {task_id} is {entry_point!r}; expected the name "
            "of a function."
        )
    if isinstance(row["atol"], bool) or not 0 <= row["atol"] < float("inf"):
        raise BadInputError(
            f"{where}: atol of {task_id} is {row['atol']!r}; expected a number of at "
            "least 0."
        )
    inputs = {}
    for name in ("base", "plus"):
        calls = row[f"{name}_input"] or []
        if not isinstance(calls, list) or not all(
            isinstance(arguments, list) for arguments in calls
        ):
            raise BadInputError(
                f"{where}: {name}_input of {task_id} has a call whose arguments are no "
                "list."
            )
        if name == "base" and not calls:
            raise BadInputError(f"{where}: base_input of {task_id} is empty.")
        try:
            convert: Callable = mbpp_inputs if release.dataset == "mbpp" else _as_is
            inputs[name] = convert(task_id, calls)
        except (ValueError, TypeError, LookupError, AttributeError) as err:
            raise BadInputError(
                f"{where}: {name}_input of {task_id} has not the shape of this "
                f"problem's arguments ({err})."
            ) from err
    return CodingProblem(
        task_id,
        row["prompt"],
        entry_point,
        row["canonical_solution"],
        inputs,
        float(row["atol"]),
    )


def _as_is(task_id: str, calls: list) -> list:
    return calls


def cache_folder() -> pathlib.Path:
    """The user's cache folder: `$XDG_CACHE_HOME`, by default `~/.cache`."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _fetch(release: Release, version: str, download: bool) -> pathlib.Path:
    """EvalPlus's own copy in its cache folder, downloaded if it is not there.

    Raises:
      OSError: it is not there and cannot be downloaded.
    """
    path = cache_folder() / "evalplus" / f"{release.stem}-{version}.jsonl"
    if path.is_file():
        return path
    if not download:
        raise OSError("downloads are switched off")
    with urllib.request.urlopen(release.url(version), timeout=_TIMEOUT_S) as response:
        packed = response.read()
    try:
        content = gzip.decompress(packed)
        rows = [json.loads(line) for line in content.splitlines() if line.strip()]
    except (EOFError, ValueError, zlib.error) as err:
        raise OSError(
            f"what came from {release.url(version)} is damaged: {err}"
        ) from err
    if not rows:
        raise OSError(f"what came from {release.url(version)} is empty")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # a full disk leaves half of it
    return path
