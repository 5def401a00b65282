"""Accuracies by category, and what follows from their means.

An episode says whether it was right as `CATEGORY_accuracy` and `GROUP_accuracy`; the
means over episodes are the accuracies. A task's score is the reference's
`overall_cat_accuracy`, right / all; AgentBench's overall score is the mean of SELECT,
INSERT and UPDATE.
"""

from collections.abc import Mapping

GROUPS = ("SELECT", "INSERT", "UPDATE")
# Messages before the first reply, which the reference counts as part of the rounds.
FIRST_MESSAGES = 3


def group(category: str) -> str:
    """SELECT, INSERT or UPDATE; SELECT is every category that is neither other."""
    return category if category in ("INSERT", "UPDATE") else "SELECT"


def summarise(means: Mapping[str, float]) -> dict[str, float]:
    """The means with `macro_accuracy`, the mean of the groups that occur.

    Args:
      means: over a model's episodes, by name.
    """
    found = [means[key] for name in GROUPS if (key := f"{name}_accuracy") in means]
    macro = {"macro_accuracy": sum(found) / len(found)} if found else {}
    return {**means, **macro}
