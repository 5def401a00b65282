"""Names of models in files, tables and on the command line."""

from collections.abc import Sequence

BASE = "base"
AGGREGATED = "aggregated"
BEST_OF_ARCHIVE = "best_of_archive"
BEST_OF_SEARCH = "best_of_search"  # of a search without archives
_CHAMPION = "champion/"


def individual_name(individual: int, experts: Sequence[str]) -> str:
    """The name of an id of the bank: "expert/<expert>" or "child/<generation>".

    Args:
      individual: the id.
      experts: their names; a task's expert has the task's.
    """
    if individual < len(experts):
        return expert_name(experts[individual])
    return child_name(individual - len(experts) + 1)


def expert_name(expert: str) -> str:
    """The name of an expert's genome."""
    return f"expert/{expert}"


def trained_expert_name(expert: str) -> str:
    """The name of an expert as it was trained."""
    return f"trained_expert/{expert}"


def child_name(generation: int) -> str:
    """The name of the child of a generation."""
    return f"child/{generation}"


def champion_name(group: str) -> str:
    """The name of the champion of a group, such as the archive of a task."""
    return f"{_CHAMPION}{group}"
