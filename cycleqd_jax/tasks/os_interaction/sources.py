"""Finds the data of OS interaction: the paper's, AgentBench's or our JSON files."""

import pathlib

from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.files import read_json
from cycleqd_jax.tasks.data import find_file, read_constant
from cycleqd_jax.tasks.os_interaction.agentbench import is_agentbench, read_folder
from cycleqd_jax.tasks.os_interaction.problems import (
    OsProblem,
    Prompt,
    read_problems,
    read_prompt,
)
from cycleqd_jax.tasks.os_interaction.reference import (
    PUBLISHED,
    SAMPLES,
    SOURCE,
    read_samples,
)

_PROBLEMS, _PROMPT, _IDS = "problems.jsonl", "prompt.json", "cycleqd_task_ids.json"


def find_data(given: str | None, may_download: bool) -> pathlib.Path:
    """The file with the problems, or AgentBench's folder.

    Args:
      given: `task_settings.os_interaction.data`: the file, a folder with it, or None.
      may_download: whether it may be downloaded if `given` is None.

    Raises:
      MissingDataError: it is not here and could not be downloaded.
      BadInputError: `given` has no such file.
    """
    if given is not None:
        folder = pathlib.Path(given)
        if (folder / _PROBLEMS).is_file():
            return folder / _PROBLEMS
        if is_agentbench(folder):
            return folder
    return find_file(
        "os_interaction",
        given,
        SAMPLES,
        lambda: PUBLISHED.fetch(may_download) / SAMPLES,
        PUBLISHED.how,
    )


def read_data(path: pathlib.Path) -> tuple[dict[int, OsProblem], Prompt]:
    """All problems by index, and the prompt.

    Args:
      path: of `find_data`.

    Raises:
      MissingDataError: there is no prompt beside the problems.
      BadInputError: names the file and the place in it.
    """
    if path.suffix == ".pkl":
        return read_samples(path)
    problems = read_folder(path) if path.is_dir() else read_problems(path)
    folder = _folder(path)
    if (folder / _PROMPT).is_file():
        return problems, read_prompt(folder / _PROMPT)
    if (folder / SAMPLES).is_file():
        return problems, read_samples(folder / SAMPLES)[1]
    raise _missing(f"the prompt, {_PROMPT} or {SAMPLES},", folder)


def read_ids(path: pathlib.Path) -> tuple[int, ...]:
    """The indices of the problems that the reference optimises on.

    Args:
      path: of `find_data`.

    Raises:
      MissingDataError: the list is not beside the problems.
      BadInputError: the file has no list of indices.
    """
    folder = _folder(path)
    ids_file, source = folder / _IDS, folder / SOURCE
    if ids_file.is_file():
        ids = read_json(ids_file)
    elif source.is_file():
        ids, ids_file = read_constant(source, "_task_ids", PUBLISHED.how), source
    else:
        raise _missing(f"the list for split: reference, {_IDS} or {SOURCE},", folder)
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise BadInputError(f"{ids_file}: expected a list of integers.")
    return tuple(ids)


def _folder(path: pathlib.Path) -> pathlib.Path:
    return path if path.is_dir() else path.parent


def _missing(what: str, folder: pathlib.Path) -> MissingDataError:
    return MissingDataError(
        f"Task os_interaction needs {what} beside the problems, but {folder} has "
        f"neither; get them with: {PUBLISHED.how}"
    )
