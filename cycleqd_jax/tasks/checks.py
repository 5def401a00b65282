"""Checks of what a task returns: results and conversations.

A task may be a user's own. Something wrong is refused where it came from, not later,
where it is stored or compared.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax.errors import BadInputError

_ROLES = ("system", "user", "assistant", "tool")
_TYPES = {
    "answer": str,
    "explanation": str,
    "turns": numbers.Integral,
    "prediction": str,
    "share": numbers.Real,
    "metrics": Mapping,
}


def check_result(result: Any, outcome: type) -> None:
    """Checks the fields of a `tasks.base.Result`.

    Args:
      result: to be checked.
      outcome: the type of its `outcome`.

    Raises:
      TypeError: a field has another type.
      ValueError: the share is not in [0, 1].
    """
    for name, kind in {"outcome": outcome, **_TYPES}.items():
        if not isinstance(value := getattr(result, name), kind):
            raise TypeError(
                f"Result.{name} must be of type {kind.__name__}, got {value!r:.80}"
            )
    if not 0.0 <= result.share <= 1.0:  # NaN is not
        raise ValueError(f"Result.share must be in [0, 1], got {result.share}")
    for name, value in result.metrics.items():
        if not isinstance(value, numbers.Real):
            raise TypeError(
                f"Result.metrics: {name!r} must be a number, got {value!r:.80}"
            )


def check_dialogue(what: str, found: object) -> None:
    """Checks a right conversation; its last message is the answer.

    Args:
      what: where it came from; the message begins with it.
      found: to be checked.

    Raises:
      BadInputError: it is something else.
    """
    if (
        not isinstance(found, Sequence)
        or not all(_is_message(one) for one in found)
        or not found
        or found[-1]["role"] != "assistant"
    ):
        raise BadInputError(
            f"{what} must return messages like {{'role': 'user', 'content': 'text'}}, "
            f"of {', '.join(_ROLES)}, the last one the assistant's, but returned "
            f"{found!r:.80}."
        )


def _is_message(one: object) -> bool:
    return (
        isinstance(one, Mapping)
        and isinstance(one.get("content"), str)
        and one.get("role") in _ROLES
    )
