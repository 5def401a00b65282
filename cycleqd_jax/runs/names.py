"""Names of models in files, tables and on the command line."""

from collections.abc import Sequence

BASE = "base"
AGGREGATED = "aggregated"
BEST_OF_ARCHIVE = "best_of_archive"
BEST_OF_SEARCH = "best_of_search"  # of a search without archives
_CHAMPION = "champion/"


def individual_name(individual: int, tasks: Sequence[str]) -> str:
    """The name of an id of the bank: "expert/<task>" or "child/<generation>"."""
    if individual < len(tasks):
        return expert_name(tasks[individual])
    return child_name(individual - len(tasks) + 1)


def expert_name(task: str) -> str:
    """The name of an expert's genome."""
    return f"expert/{task}"


def trained_expert_name(task: str) -> str:
    """The name of an expert as it was trained."""
    return f"trained_expert/{task}"


def child_name(generation: int) -> str:
    """The name of the child of a generation."""
    return f"child/{generation}"


def champion_name(group: str) -> str:
    """The name of the champion of a group, such as the archive of a task."""
    return f"{_CHAMPION}{group}"
