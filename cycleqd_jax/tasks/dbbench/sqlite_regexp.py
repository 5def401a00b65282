"""MySQL's regular expressions, by Python's."""

import functools
import re

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError

_CLASSES = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "alnum": "a-zA-Z0-9",
    "upper": "A-Z",
    "lower": "a-z",
    "space": r"\s",
    "blank": r" \t",
    "punct": r"!-/:-@\[-`{-~",
    "xdigit": "0-9A-Fa-f",
    "cntrl": r"\x00-\x1f\x7f",
    "print": r" -~",
    "graph": "!-~",
    "word": r"\w",
}
_CLASS = re.compile(r"\[:(\^?)(\w+):\]")


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str, flags: int) -> re.Pattern:
    if not pattern:
        raise MySQLError(3685, "Illegal argument to a regular expression.")
    text = pattern.replace("[[:<:]]", r"\b").replace("[[:>:]]", r"\b")
    text = _CLASS.sub(lambda m: _CLASSES.get(m.group(2), m.group(0)), text)
    try:
        return re.compile(text, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise MySQLError(
            3692, f"Incorrect description of a regular expression: {error}"
        ) from None


def _flags(exact: bool, letters: str = "") -> int:
    flags = 0 if exact else re.IGNORECASE
    for letter in letters or "":
        if letter == "c":
            flags &= ~re.IGNORECASE
        elif letter == "i":
            flags |= re.IGNORECASE
        elif letter == "m":
            flags |= re.MULTILINE
        elif letter == "n":
            flags |= re.DOTALL
    return flags


def regexp(text, pattern, exact: int) -> int | None:
    """`text` REGEXP `pattern`."""
    if text is None or pattern is None:
        return None
    return int(_compiled(pattern, _flags(bool(exact))).search(text) is not None)


def regexp_like(text, pattern, letters="") -> int | None:
    """REGEXP_LIKE."""
    if text is None or pattern is None or letters is None:
        return None
    return int(_compiled(pattern, _flags(False, letters)).search(text) is not None)


def regexp_replace(
    text, pattern, new, position=1, occurrence=0, letters=""
) -> str | None:
    """REGEXP_REPLACE."""
    if None in (text, pattern, new, position, occurrence, letters):
        return None
    found = _compiled(pattern, _flags(False, letters))
    template = re.sub(r"\$(\d+)", r"\\g<\1>", new.replace("\\", "\\\\"))
    template = re.sub(r"\\\\(\d)", r"\\g<\1>", template)
    start = max(position - 1, 0)
    head, rest = text[:start], text[start:]
    counter = 0

    def one(match: re.Match) -> str:
        nonlocal counter
        counter += 1
        if occurrence and counter != occurrence:
            return match.group()
        return match.expand(template)

    try:
        return head + found.sub(one, rest)
    except (re.error, IndexError):
        raise MySQLError(
            3686, "Index out of bounds in regular expression search."
        ) from None


def _nth(text, pattern, position, occurrence, letters) -> re.Match | None:
    matches = _compiled(pattern, _flags(False, letters)).finditer(
        text, max(position - 1, 0)
    )
    for number, match in enumerate(matches, 1):
        if number >= occurrence:
            return match
    return None


def regexp_substring(text, pattern, position=1, occurrence=1, letters="") -> str | None:
    """REGEXP_SUBSTR."""
    if None in (text, pattern, position, occurrence, letters):
        return None
    match = _nth(text, pattern, position, occurrence, letters)
    return None if match is None else match.group()


def regexp_position(
    text, pattern, position=1, occurrence=1, end=0, letters=""
) -> int | None:
    """REGEXP_INSTR."""
    if None in (text, pattern, position, occurrence, end, letters):
        return None
    match = _nth(text, pattern, position, occurrence, letters)
    if match is None:
        return 0
    return (match.end() if end else match.start()) + 1


FUNCTIONS = {
    "regexp": regexp,
    "regexp_like": regexp_like,
    "regexp_replace": regexp_replace,
    "regexp_substr": regexp_substring,
    "regexp_instr": regexp_position,
}
