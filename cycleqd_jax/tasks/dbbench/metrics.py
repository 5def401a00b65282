"""Accuracies by category, and what follows from their means.

Each episode has `CATEGORY_accuracy` and `GROUP_accuracy`, 1.0 if it was right, else
0.0; the accuracies are their means over episodes. A task's score is the reference's
`overall_cat_accuracy`, right / all; AgentBench's overall score is the mean of SELECT,
INSERT and UPDATE.
"""

from collections.abc import Mapping

GROUPS = ("SELECT", "INSERT", "UPDATE")
# Messages before the first reply, which the reference counts as part of the rounds.
FIRST_MESSAGES = 3


def group(category: str) -> str:
    """INSERT or UPDATE where the category is one of these, else SELECT."""
    return category if category in ("INSERT", "UPDATE") else "SELECT"


def summarise(means: Mapping[str, float]) -> dict[str, float]:
    """The means with `macro_accuracy`, the mean of the groups that occur.

    Args:
      means: over a model's episodes, by name.
    """
    found = [means[key] for name in GROUPS if (key := f"{name}_accuracy") in means]
    macro = {"macro_accuracy": sum(found) / len(found)} if found else {}
    return {**means, **macro}
