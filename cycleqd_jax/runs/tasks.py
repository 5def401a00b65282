"""The tasks of a run: made by name, and checked against its settings."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, MissingDataError, show
from cycleqd_jax.tasks.base import ProblemsSettings, Split, Task
from cycleqd_jax.tasks.registry import is_images, make_task


def make_tasks(
    names: Sequence[str],
    problems: ProblemsSettings,
    own: Mapping[str, Mapping[str, Any]],
    *,
    download: bool = True,
) -> tuple[Task, ...]:
    """The tasks that a config names.

    Args:
      names: or import paths.
      problems: the section.
      own: `task_settings` of the config.
      download: whether data of benchmarks may be fetched.

    Raises:
      BadInputError: one is unknown, or two share a name.
      MissingDataError: the data of a benchmark are not on this machine.
    """
    tasks = tuple(
        make_task(name, problems.task_settings(own.get(name, {}), download=download))
        for name in names
    )
    _check_names(names, tasks)
    return tasks


def find_tasks(config: RunConfig) -> tuple[tuple[Task, ...], list[str]]:
    """Makes the tasks whose data are on this machine, and says why not the others.

    Raises:
      BadInputError: one is unknown, or two share a name.
    """
    tasks, missing = [], []
    for name in config.tasks:
        try:
            tasks += make_tasks(
                [name], config.problems, config.task_settings, download=False
            )
        except MissingDataError as err:
            missing.append(str(err))
    _check_names(config.tasks, tasks)
    return tuple(tasks), missing


def find_out_of_domain(
    config: RunConfig, tasks: Sequence[Task]
) -> tuple[tuple[Task, ...], list[str]]:
    """Makes the tasks of `out_of_domain`, whose problems are all of `test`.

    Args:
      config: the settings.
      tasks: of the search.

    Returns:
      Those whose data are on this machine, and a sentence for each of the others.

    Raises:
      BadInputError: one is unknown, is of images, has the name of another task, or has
        no problems of `test`.
    """
    found, missing = [], []
    only_test = config.problems.sizes | {s: 0 for s in Split if s is not Split.TEST}
    for name in config.out_of_domain:
        if is_images(name):
            raise BadInputError(
                f"out_of_domain: {name} is a data set of images; expected tasks of "
                "language models."
            )
        options = config.task_settings.get(name, {})
        settings = config.problems.task_settings(options)
        try:
            task = make_task(name, dataclasses.replace(settings, sizes=only_test))
        except MissingDataError as err:
            missing.append(str(err))
            continue
        _check_out_of_domain(task, [*tasks, *found])
        found.append(task)
    return tuple(found), missing


def _check_out_of_domain(task: Task, others: Sequence[Task]) -> None:
    if task.name in {other.name for other in others}:
        raise BadInputError(
            f"out_of_domain: two tasks have the name {task.name}, but results need "
            "another for each; leave one out."
        )
    ids = [problem.id for problem in task.problems(Split.TEST)]
    if not ids:
        raise BadInputError(
            f"out_of_domain: {task.name} has no problems of the split test; set "
            "problems.test, or the settings of the task that decide its splits."
        )
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise BadInputError(
            f"out_of_domain: {task.name} has the problem {show(twice)} twice; give "
            "every problem its own id."
        )


def _check_names(names: Sequence[str], tasks: Sequence[Task]) -> None:
    found = [task.name for task in tasks]
    if len(set(found)) < len(found):
        raise BadInputError(
            f"tasks: {', '.join(names)} have the names {', '.join(found)}, but each "
            "archive needs another; leave one out."
        )


def check_splits(config: RunConfig, tasks: Sequence[Task]) -> None:
    """Refuses tasks that lack the problems that the settings need, or name two alike.

    Every task needs problems of `optimise`, and of `validate` where champions are
    chosen on it. On `test` either all tasks have problems or none has. A problem that
    models are chosen on must not be one that they are compared on. The method `run` of
    a task must be a coroutine function.

    Raises:
      BadInputError: names the task and the split.
    """
    needed = {Split.OPTIMISE: "the search scores candidates on them; give it some"}
    if config.aggregation.candidates:
        needed[Split.VALIDATE] = (
            f"aggregation.candidates is {config.aggregation.candidates}, so champions "
            "are chosen on them; give it some, or set aggregation.candidates=0"
        )
    if any(task.problems(Split.TEST) for task in tasks):
        needed[Split.TEST] = (
            "the other tasks have some, and models are compared on all; give it some, "
            "or set problems.test=0"
        )
    for split, why in needed.items():
        for task in tasks:
            problems = task.problems(split)
            if not problems:
                raise BadInputError(
                    f"task {task.name}: has no problems of the split {split}, but "
                    f"{why}."
                )
            ids = [problem.id for problem in problems]
            if len(set(ids)) < len(ids):
                twice = next(one for one in ids if ids.count(one) > 1)
                raise BadInputError(
                    f"task {task.name}: has the problem {show(twice)} twice in the "
                    f"split {split}; give every problem its own id."
                )
    for task in tasks:
        run = getattr(type(task), "run", None)
        if inspect.isfunction(run) and not inspect.iscoroutinefunction(run):
            raise BadInputError(
                f"task {task.name}: its method run must be written as async def, and "
                "await the chat and the sandbox."
            )
        seen: dict[str, Split] = {}
        for split in needed:
            for problem in task.problems(split):
                if seen.setdefault(problem.id, split) is not split:
                    raise BadInputError(
                        f"task {task.name}: has the problem {show(problem.id)} in the "
                        f"splits {seen[problem.id]} and {split}; each problem must be "
                        "of one split and have its own id."
                    )
