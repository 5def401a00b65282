"""EvalPlus's data files: found, checked, read."""

import dataclasses
import gzip
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.data import (
    download,
    file_hash,
    find_file,
    read_lines,
)

_LOG = logging.getLogger(__name__)
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
    """The source of a data set.

    Attributes:
      dataset: "mbpp" or "humaneval".
      title: for messages.
      stem: of EvalPlus's file names.
      default: version that EvalPlus 0.3.1 uses.
      known: hex SHA-256 -> version.
      files: another name that the file may have in a folder, by version.
    """

    dataset: str
    title: str
    stem: str
    default: str
    known: Mapping[str, str]
    files: Mapping[str, str]

    def url(self, version: str) -> str:
        """Address of the compressed file."""
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
        "b54e762755248ca411b523c917fa9f93c07b5ff2966bf60b3917b853926a3dad": "v0.2.0",
        "3b64cb8a239c512e06c71aae75a803ce2b64e981e1d3802121c146e02c1a3872": "v0.1.0",
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
      version: of the release with this content, else "sha256:" and its hash.
      sha256: of the content, hex.
      problems: by id, in the order of the file.
    """

    path: pathlib.Path
    version: str
    sha256: str
    problems: Mapping[str, CodingProblem]


def find_data(
    release: Release, given: str | None, version: str | None, may_download: bool
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
    if given is not None and pathlib.Path(given).is_dir():
        folder = pathlib.Path(given)
        names = [name for name in names if (folder / name).is_file()] or names
    return find_file(
        release.dataset,
        given,
        names[0],
        lambda: _fetch(release, wanted, may_download),
        release.how(wanted),
    )


def read_data(
    release: Release, path: pathlib.Path, version: str | None, sha256: str | None
) -> DataSet:
    """Reads and checks a whole file.

    Args:
      release: what it should be.
      path: of the file.
      version: that it must have, where the hash of that version is known.
      sha256: hex hash that it must have; None for any.

    Raises:
      BadInputError: names the file and the line, or the file and both hashes.
    """
    rows = read_lines(path, _FIELDS)
    actual = file_hash(path)
    how = release.how(version or release.default)
    if sha256 is not None and actual != sha256.lower():
        raise BadInputError(
            f"{path}: expected the file with SHA-256 {sha256.lower()}, got {actual}; "
            f"get it again with: {how}"
        )
    found = release.known.get(actual, f"sha256:{actual}")
    if version in release.known.values() and found != version:
        raise BadInputError(
            f"{path}: expected {release.title} {version}, got {found}; get it with: "
            f"{how}"
        )
    if actual not in release.known and release.known:
        _LOG.warning(
            "%s is no known version of %s; it is recorded by its hash, SHA-256 %s.",
            path,
            release.title,
            actual,
        )
    problems: dict[str, CodingProblem] = {}
    for where, row in rows:
        problem = _problem(release, where, row)
        if problem.id in problems:
            raise BadInputError(f"{where}: {problem.id} is there twice.")
        problems[problem.id] = problem
    return DataSet(path, found, actual, problems)


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
            inputs[name] = _arguments(release, task_id, calls)
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


def _arguments(release: Release, task_id: str, calls: list) -> list[list[Any]]:
    """The arguments of calls. MBPP+'s file has lists and texts for tuples, sets, ..."""
    if release.dataset != "mbpp":
        return calls
    from evalplus.data.mbpp import mbpp_deserialize_inputs  # takes a second or two

    return [list(arguments) for arguments in mbpp_deserialize_inputs(task_id, calls)]


def _fetch(release: Release, version: str, may_download: bool) -> pathlib.Path:
    """EvalPlus's own copy in its cache folder, downloaded if it is not there.

    Raises:
      OSError: it is not there, and may not or cannot be downloaded.
    """
    path = files.cache_folder("evalplus") / f"{release.stem}-{version}.jsonl"
    if path.is_file():
        return path
    if not may_download:
        raise OSError("downloads are switched off")

    def unpack(packed: bytes) -> bytes:
        content = gzip.decompress(packed)
        if not [json.loads(line) for line in content.splitlines() if line.strip()]:
            raise ValueError("it is empty")
        return content

    return download(release.url(version), path, unpack)
