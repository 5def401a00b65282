"""Tasks by name or by import path."""

import importlib
import inspect
from collections.abc import Sequence

from cycleqd_jax.errors import BadInputError, own_code, show
from cycleqd_jax.files import check_name
from cycleqd_jax.tasks import harness
from cycleqd_jax.tasks.base import Problem, Split, Task, TaskSettings
from cycleqd_jax.tasks.own.options import is_own
from cycleqd_jax.tasks.own.task import OwnTask
from cycleqd_jax.tasks.pocket.coding import PocketCoding, PocketCodingHard
from cycleqd_jax.tasks.pocket.db import PocketDb, PocketDbHard
from cycleqd_jax.tasks.pocket.shell import PocketOs, PocketOsHard
from cycleqd_jax.tasks.segmentation import registry as images
from cycleqd_jax.tasks.segmentation.task import ImageTask

# Imported when they are asked for: some need an extra.
_OTHERS = {
    "pocket_regex": "cycleqd_jax.tasks.pocket.regex:PocketRegex",
    "pocket_dialect_a": "cycleqd_jax.tasks.pocket.dialects:PocketDialectA",
    "pocket_dialect_b": "cycleqd_jax.tasks.pocket.dialects:PocketDialectB",
    "pocket_sqlshell": "cycleqd_jax.tasks.pocket.sqlshell:PocketSqlShell",
    "pocket_pysql": "cycleqd_jax.tasks.pocket.pysql:PocketPySql",
    "mbpp": "cycleqd_jax.tasks.coding.task:Mbpp",
    "humaneval": "cycleqd_jax.tasks.coding.task:HumanEval",
    "bigcodebench": "cycleqd_jax.tasks.bigcodebench.task:BigCodeBench",
    "dbbench": "cycleqd_jax.tasks.dbbench.task:DBBench",
    "os_interaction": "cycleqd_jax.tasks.os_interaction.task:OSInteraction",
}
HARNESS = "lm_eval:"  # tasks of lm-evaluation-harness
_EXTRAS = {"evalplus": "coding"}  # package -> extra that installs it
_PLAIN = (PocketCoding, PocketDb, PocketOs)
_HARD = (PocketCodingHard, PocketDbHard, PocketOsHard)
BUILT_IN = {task.name: task for task in (*_PLAIN, *_HARD)}
NAMES = (*BUILT_IN, *_OTHERS, *images.NAMES)

_VALUES = ("name", "max_new_tokens", "fingerprint")
_METHODS = ("problems", "dialogue", "run")
_SIGNATURES = (
    ("problems", "split", 1),
    ("dialogue", "problem", 1),
    ("run", "problem, chat, sandbox", 3),
)
_OF_IMAGES = ("ids", "example")  # methods of a data set of images, and of no task


def is_images(name: str) -> bool:
    """True if a name or import path is that of a data set of images.

    Raises:
      BadInputError: it is an import path that cannot be imported.
    """
    if name in images.NAMES:
        return True
    if name.startswith(HARNESS):
        return False
    return ":" in name and all(hasattr(task_class(name), m) for m in _OF_IMAGES)


def make_task(name: str, settings: TaskSettings) -> Task | ImageTask:
    """Makes a task; a data set of images becomes an `ImageTask`.

    Args:
      name: of a task here, or the import path `package.module:Class` of another; any
        other name where the options are those of a task made from a file.
      settings: its arguments.

    Raises:
      BadInputError: there is no such task, it cannot be imported, it is not made as
        `Class(settings)`, or it lacks a member of `cycleqd_jax.tasks.base.Task`.
      MissingDataError: the data of a benchmark are not on this machine.
    """
    if name in images.NAMES:
        return ImageTask(images.make_data_set(name, settings))
    if ":" not in name and is_own(settings.options):
        return OwnTask(name, settings, NAMES)
    kind = task_class(name)
    try:
        inspect.signature(kind).bind(settings)
    except TypeError as err:
        raise BadInputError(
            f"Task {name} must be a class made as Class(settings) with TaskSettings, "
            f"but it takes other arguments: {err}."
        ) from err
    with own_code(f"Task {name}", kind, "mend it", BadInputError):
        task = kind(settings)
    if is_images(name):
        _check_task_name(name, task.name)
        return ImageTask(task)
    missing = [
        f"{member} (a method)"
        for member in _METHODS
        if not callable(getattr(task, member, None))
    ]
    # A fingerprint may take long to make, so its class is asked for it.
    missing += [
        member
        for member in _VALUES
        if member not in getattr(task, "__dict__", {}) and not hasattr(kind, member)
    ]
    if missing:
        raise BadInputError(
            f"Task {name} must have all members of cycleqd_jax.tasks.base.Task but "
            f"lacks {', '.join(missing)}."
        )
    _check_task_name(name, task.name)
    if not isinstance(task.max_new_tokens, int) or task.max_new_tokens < 1:
        raise BadInputError(
            f"Task {name} must have max_new_tokens of at least 1 but has "
            f"{task.max_new_tokens!r}."
        )
    if kind.__module__.partition(".")[0] != "cycleqd_jax":
        _check_own(name, task)
    return task


def _check_own(name: str, task: Task) -> None:
    """Tries what a run calls later, perhaps after hours."""
    for method, shown, count in _SIGNATURES:
        try:
            inspect.signature(getattr(task, method)).bind(*range(count))
        except TypeError as err:
            raise BadInputError(
                f"Task {name} must have a method {method}({shown}), but it takes "
                f"other arguments: {err}."
            ) from err
    if not isinstance(task.fingerprint, str):
        raise BadInputError(
            f"Task {name} must have a hash as its fingerprint, a string, but has "
            f"{show(task.fingerprint)}."
        )
    for split in Split:
        what = f"Task {name}: problems({split})"
        with own_code(what, type(task), "give a split without any ()", BadInputError):
            problems = task.problems(split)
        if not isinstance(problems, Sequence) or isinstance(problems, str):
            raise BadInputError(
                f"{what} must return a sequence of problems, but returned "
                f"{show(problems)}."
            )
        for one in problems:
            if not isinstance(one, Problem) or not isinstance(one.id, str):
                raise BadInputError(
                    f"{what} must have cycleqd_jax.tasks.base.Problem with texts as "
                    f"ids, but has {show(one)}."
                )


def _check_task_name(path: str, name: object) -> None:
    try:
        check_name(name)
    except ValueError as err:
        raise BadInputError(f"Task {path} has the name {show(name)}; {err}.") from err


def task_class(name: str) -> type:
    """The class of a task, by name or import path.

    Raises:
      BadInputError: there is no such class, or it cannot be imported.
    """
    if name.startswith(HARNESS):
        harness.check_installed(f"tasks: {name}")
        search = importlib.import_module("cycleqd_jax.tasks.harness.search")
        return search.search_task(name.removeprefix(HARNESS))
    return BUILT_IN.get(name) or _import(_OTHERS.get(name, name))


def _import(path: str) -> type:
    module_name, colon, class_name = path.partition(":")
    if not colon or not module_name or not class_name:
        raise BadInputError(
            f"Task {path!r} does not exist; give one of {', '.join(sorted(NAMES))}, "
            "the import path package.module:Class of a task of your own, or a mapping "
            "with jsonl or csv, the file with the problems, or hub, the data set."
        )
    try:
        module = importlib.import_module(module_name)
    # A user's module may raise anything; the cause is kept.
    except Exception as err:
        package = (getattr(err, "name", None) or "").partition(".")[0]
        remedy = f"check that {module_name} is on Python's path and imports cleanly"
        if package in _EXTRAS:
            remedy = (
                f"install the extra with pip install 'cycleqd-jax[{_EXTRAS[package]}]'"
            )
        raise BadInputError(
            f"Task {path} could not be imported: {err}; {remedy}."
        ) from err
    kind = getattr(module, class_name, None)
    if not inspect.isclass(kind):
        found = "nothing" if kind is None else f"a {type(kind).__name__}"
        raise BadInputError(
            f"Task {path} must name a class, but {module_name} has {found} called "
            f"{class_name}."
        )
    return kind
