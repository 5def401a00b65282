"""Accuracies by category and overall.

    overall_cat_accuracy = right / all                        quality; the reference's
    macro_accuracy = mean of SELECT, INSERT and UPDATE        AgentBench's overall score

SELECT is every category that is neither INSERT nor UPDATE. A category without a problem
has accuracy 0.
"""

import dataclasses
from collections.abc import Mapping, Sequence

CATEGORIES = (
    "other",
    "counting",
    "comparison",
    "ranking",
    "aggregation-SUM",
    "aggregation-MIN",
    "aggregation-MAX",
    "aggregation-AVG",
)
GROUPS = ("SELECT", "INSERT", "UPDATE")
# Messages before the first reply, which the reference counts as part of the rounds.
FIRST_MESSAGES = 3


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One judged problem.

    Attributes:
      category: its type.
      right: the verdict.
      messages: of its conversation, the three before the first reply included.
    """

    category: str
    right: bool
    messages: int


def group(category: str) -> str:
    """SELECT, INSERT or UPDATE."""
    return category if category in ("INSERT", "UPDATE") else "SELECT"


def aggregate(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """All accuracies, in [0, 1], and the mean number of messages.

    Args:
      verdicts: of all problems that were judged; empty gives zeros.

    Returns:
      `CATEGORY_accuracy`, `GROUP_accuracy`, `overall_cat_accuracy`, `macro_accuracy`
      and `average_round`.
    """
    scores = {
        f"{name}_accuracy": _share([v for v in verdicts if v.category == name])
        for name in CATEGORIES
    }
    for name in GROUPS:
        members = [v for v in verdicts if group(v.category) == name]
        scores[f"{name}_accuracy"] = _share(members)
    scores["overall_cat_accuracy"] = _share(verdicts)
    macro = sum(scores[f"{name}_accuracy"] for name in GROUPS) / len(GROUPS)
    scores["macro_accuracy"] = macro
    messages = sum(v.messages for v in verdicts)
    scores["average_round"] = messages / len(verdicts) if verdicts else 0.0
    return scores


def summarise(means: Mapping[str, float]) -> dict[str, float]:
    """What a report shows: the means, and the macro accuracy of the groups that occur.

    Args:
      means: over a model's episodes, by name: `GROUP_accuracy` and others.
    """
    found = [means[key] for name in GROUPS if (key := f"{name}_accuracy") in means]
    macro = {"macro_accuracy": sum(found) / len(found)} if found else {}
    return {**means, **macro}


def _share(verdicts: Sequence[Verdict]) -> float:
    return sum(v.right for v in verdicts) / len(verdicts) if verdicts else 0.0
