"""The experts of a run by name, in the order of genomes' scales.

Mostly every task has one expert, which has the task's name. A task may have none, like
a skill that nobody trained; and there may be further experts, which belong to no task.
"""

from collections.abc import Mapping, Sequence

from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.files import check_name

NO_EXPERT = "none"  # in place of the folder of a task's expert


def check_experts(given: Mapping[str, str], tasks: Sequence[str]) -> None:
    """Checks the setting `experts`.

    Args:
      given: entry of `tasks`, or name of a further expert -> folder or `NO_EXPERT`.
      tasks: names or import paths.

    Raises:
      ValueError: one sentence: a task has no entry, a further expert has no folder or a
        name that files cannot have, or there is no expert at all.
    """
    if not set(tasks) <= set(given):
        raise ValueError(
            f"experts has entries for {', '.join(given) or 'nothing'}; expected one "
            f"for each of the tasks {', '.join(tasks)}: a folder, or {NO_EXPERT} for a "
            "task without an expert"
        )
    for name, path in given.items():
        if name in tasks:
            continue
        try:
            check_name(name)
        except ValueError as err:
            raise ValueError(f"experts has the name {show(name)}: {err}") from err
        if path == NO_EXPERT:
            raise ValueError(
                f"experts.{name} is {NO_EXPERT}, but {name} is not one of the tasks "
                f"{', '.join(tasks)}; give its folder, or leave it out"
            )
    if all(path == NO_EXPERT for path in given.values()):
        raise ValueError(
            f"experts is {NO_EXPERT} for every task; expected the folder of one expert "
            "or more, since they are what is merged"
        )


def named_experts(
    given: Mapping[str, str], tasks: Sequence[str], names: Sequence[str]
) -> dict[str, str]:
    """Expert -> folder: the tasks' experts in their order, then the further ones.

    Args:
      given: the setting `experts`, checked.
      tasks: names or import paths, as its keys have them.
      names: of the tasks, in the same order; an expert of a task is named so.

    Raises:
      BadInputError: a further expert has the name of a task.
    """
    found = {name: given[task] for task, name in zip(tasks, names, strict=True)}
    for key, path in given.items():
        if key in tasks:
            continue
        if key in found:
            raise BadInputError(
                f"experts: {key} is the name of a task, whose own expert is keyed as "
                "the task is in tasks; give the further expert another name."
            )
        found[key] = path
    return {name: path for name, path in found.items() if path != NO_EXPERT}
