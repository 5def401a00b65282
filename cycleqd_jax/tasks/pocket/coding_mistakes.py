"""Functions with one mistake, which the hidden calls of a problem should expose."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# fmt: off
_SWAPS = (  # parts of a function's body, and mistakes in their place
    (" > ", " < "), (" > ", " >= "), (" >= ", " > "), (" >= ", " < "), (" < ", " <= "),
    (" < ", " > "), (" <= ", " < "), (" <= ", " > "), (" == ", " != "),
    (" != ", " == "), (" + ", " - "), (" - ", " + "), (" * ", " + "), (" += ", " -= "),
    (" += ", " = "), ("max", "min"), ("min", "max"), ("sum(", "max("),
    (" if ", " if not "), (" and ", " or "), (" or ", " and "), (" in ", " not in "),
    ("break", "continue"), ("[-", "["), ("[:", "["), ("[::-1]", ""), ("[1:]", ""),
    (", reverse=True", ""), ("sorted(", "list("), ("set(", "list("), (".upper()", ""),
    (" & ", " | "), (" | ", " & "), (" - ", " & "), ("startswith", "endswith"),
    (" else ", " and "), ("abs(", "("),
)
# fmt: on
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NameError,
    TypeError,
    ValueError,
)


def mistakes(answer: str) -> Iterator[str]:
    """Answers with another operator, without a part, or with a constant off by one.

    A `while` loop could become endless, so an answer with one has no mistakes.

    Args:
      answer: a function's source; its first line, the head, stays as it is.
    """
    head, _, body = answer.partition("\n")
    if "while" in body:
        return
    for old, new in _SWAPS:
        for match in re.finditer(re.escape(old), body):
            yield f"{head}\n{body[: match.start()]}{new}{body[match.end() :]}"
    for match in re.finditer(r"\d+", body):
        for change in (-1, 1):
            number = int(match[0]) + change
            yield f"{head}\n{body[: match.start()]}{number}{body[match.end() :]}"


def compiled(answer: str, name: str) -> Callable[..., Any] | None:
    """The function of an answer of this package; None if it is no Python."""
    scope: dict[str, Any] = {}
    try:
        exec(answer, scope)
    except SyntaxError:
        return None
    return scope[name]


def agree(
    one: Callable[..., Any], other: Callable[..., Any], call: Sequence[Any]
) -> bool:
    """True if two functions, the first perhaps wrong, return the same for a call."""
    try:
        return repr(one(*call)) == repr(other(*call))
    except _FAILURES:
        return False
