"""Whether an answer is right, as the reference compares.

No tolerance, no trimming, no case folding. A quoted text is split into its characters,
and a bare word keeps its leading space: both are wrong, as in the reference.

Source: SakanaAI/CycleQD:evaluation/fishfarm/fishfarm/tasks/dbbench.py (`metrics`).
"""

from collections.abc import Sequence
from typing import Any

from cycleqd_jax.tasks.dbbench import literals

# Judged by the content of the table; the answer may be anything.
MODIFYING = ("INSERT", "DELETE", "UPDATE")


def is_right(category: str, answer: str, target: str | Sequence[str]) -> bool:
    """Compares an answer with what is expected.

    Args:
      category: the problem's type.
      answer: the answer's text as it was written, or for a modifying problem the state
        of the table.
      target: the expected values, or the expected state.
    """
    if category in MODIFYING:
        return answer == target
    values = answer_values(answer)
    if len(values) == 1 and len(target) == 1:
        try:
            return float(values[0]) == float(target[0])
        except (ValueError, TypeError, OverflowError):
            return bool(values[0] == target[0])
    try:
        return set(values) == set(target)
    except TypeError:  # unhashable values
        return False


def answer_values(answer: str) -> list[Any]:
    """The values an answer lists; the text itself where it is no list of values."""
    try:
        return list(literals.evaluate(answer))
    except (ValueError, TypeError):  # no value, or one that has no elements
        return [answer]
