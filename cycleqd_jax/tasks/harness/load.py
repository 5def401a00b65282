"""Finds and loads tasks of lm-evaluation-harness; errors are one sentence."""

import contextlib
import difflib
import importlib.metadata
import io
import pathlib
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from cycleqd_jax.errors import BadInputError, CycleQDError, MissingDataError, RunError
from cycleqd_jax.files import digest

VERSION = importlib.metadata.version("lm_eval")


def find_tasks(names: Sequence[str], include: Sequence[str]) -> TaskManager:
    """Finds task files; their data are not loaded yet.

    Args:
      names: of tasks, groups or tags.
      include: folders with user-defined tasks.

    Returns:
      The tasks of `include` where they suffice, else those and the harness's.

    Raises:
      BadInputError: a name is unknown.
    """
    for defaults in (False, True):  # finding the harness's own tasks takes seconds
        with quiet():
            found = TaskManager(include_path=list(include), include_defaults=defaults)
        index = found.task_index
        unknown = [name for name in names if name not in index]
        # A user-defined group may contain tasks of the harness.
        members = (m for group in found.all_groups for m in index[group].cfg["task"])
        here = defaults or all(isinstance(m, str) and m in index for m in members)
        if here and not unknown:
            return found
    near = difflib.get_close_matches(unknown[0], found.all_tasks, n=3)
    meant = f"did you mean {', '.join(near)}? " if near else ""
    raise BadInputError(
        f"tasks: lm-evaluation-harness {VERSION} has no task, group or tag "
        f"{unknown[0]!r}; {meant}list them with: python -m lm_eval ls tasks"
    )


def load_task(name: str, manager: TaskManager, *, unsafe_code: bool) -> dict[str, Any]:
    """A task, or the tasks of a group or tag, with their data.

    Raises:
      BadInputError: it cannot be loaded, for example without a network, shows images,
        or runs code without permission.
    """
    try:
        with quiet():
            loaded = manager.load([name])
    except Exception as err:  # the hub's, the harness's, a task's own: any kind
        raise _load_error(name, err) from err
    for task in loaded["tasks"].values():
        if getattr(task, "MULTIMODAL", False):
            raise BadInputError(
                f"tasks: {task.task_name} shows images or sounds, but models here read "
                "text; leave it out."
            )
        if getattr(task, "UNSAFE_CODE", False) and not unsafe_code:
            raise BadInputError(
                f"tasks: {task.task_name} runs what the model wrote, outside of any "
                "sandbox; leave it out, or let experiments.language ask it, with "
                "unsafe_code=true in a container of its own."
            )
    return loaded


def problem_ids(leaves: Mapping[str, Task], limit: int | None = None) -> dict[str, str]:
    """Ids like "gsm8k/17" of what the harness evaluates on -> their task.

    `limit` is the number of documents of each task, at most.
    """
    return {
        f"{leaf}/{i}": leaf
        for leaf, task in leaves.items()
        for i, _ in task.doc_iterator(limit=limit)
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Holds back the harness's bars, prints and warnings."""
    nowhere = io.StringIO()
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(action="ignore"),
    ):
        yield


@contextlib.contextmanager
def guarded(what: str) -> Iterator[None]:
    """Runs code of the harness and of its tasks, quietly.

    Raises:
      RunError: the code raised anything; names `what` failed.
    """
    try:
        with quiet():
            yield
    except CycleQDError:
        raise
    except Exception as err:  # a task's own code may raise any kind
        raise RunError(
            f"tasks: {what} fails in lm-evaluation-harness {VERSION} ({reason(err)})."
        ) from err


def _load_error(name: str, err: Exception) -> BadInputError:
    """One sentence about an exception while a task was loaded."""
    frames = traceback.walk_tb(err.__traceback__)
    owners = [frame.f_locals.get("self") for frame, _ in frames]
    tasks = [owner for owner in owners if isinstance(owner, Task)]
    if not tasks or not tasks[-1].DATASET_PATH:
        return BadInputError(f"tasks: {name} cannot be loaded ({reason(err)}).")
    data = {"path": tasks[-1].DATASET_PATH, "name": tasks[-1].DATASET_NAME}
    data |= tasks[-1].config.dataset_kwargs or {}
    arguments = ", ".join(f"{key}={value!r}" for key, value in data.items() if value)
    return MissingDataError(
        f"tasks: the data of {name} cannot be loaded ({reason(err)}); where there is "
        'a network, type: python -c "import datasets; '
        f'datasets.load_dataset({arguments})", and bring the folder that HF_HOME '
        "names (~/.cache/huggingface) here."
    )


def file_hashes(folders: Sequence[str], pattern: str) -> list[list[str]]:
    """Names and SHA-256 of files in some folders, without Python's cache.

    Raises:
      BadInputError: one is no folder.
    """
    found = []
    for folder in map(pathlib.Path, folders):
        if not folder.is_dir():
            raise BadInputError(f"include: {folder} is no folder; check the name.")
        for path in sorted(p for p in folder.glob(pattern) if p.is_file()):
            if path.suffix != ".pyc":
                found.append([str(path.relative_to(folder)), digest(path)])
    return found


def reason(err: Exception) -> str:
    """Kind and text of an error on one line."""
    return f"{type(err).__name__}: {' '.join(str(err).split())}"[:300]
