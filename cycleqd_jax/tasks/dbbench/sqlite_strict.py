"""What MySQL's strict mode refuses where a statement changes data.

There a text that is no whole number or date, a division by zero and a decimal that is
too large are errors; elsewhere they give what could be read, NULL, or the largest.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from cycleqd_jax.tasks.dbbench import sqlite_dates as dates
from cycleqd_jax.tasks.dbbench import sqlite_numbers as numbers
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError

_SHOWN = 128  # characters of a wrong value


class Strictness(Protocol):
    """Attributes: strict: whether the rules hold for the statement that runs."""

    strict: bool


def strictly(
    functions: Mapping[str, Callable], flavour: Flavour, moment: Strictness
) -> dict[str, Callable]:
    """Those of the functions that strict mode is about, with its rules."""
    found = {}
    number = numbers.is_number
    if flavour is Flavour.MYSQL8:  # takes an empty text for 0

        def number(text: str) -> bool:
            return not text.strip() or numbers.is_number(text)

    double, compared = "Truncated incorrect DOUBLE", "Truncated incorrect DOUBLE"
    if flavour is Flavour.MARIADB:
        compared = "Truncated incorrect DECIMAL"
    checks = (  # function, what is said, what fits, which arguments
        ("number", double, number, (0,)),
        ("number_compared", compared, number, (0,)),
        ("text_decimal", "Truncated incorrect DECIMAL", numbers.is_number, (0,)),
        ("text_integer", "Truncated incorrect INTEGER", numbers.is_integer, (0,)),
        ("datetime", "Incorrect datetime", dates.is_whole_datetime, (0,)),
        ("shift", "Incorrect datetime", dates.is_whole_moment, (0,)),
        ("extract", "Incorrect datetime", dates.is_whole_moment, (1,)),
        ("time", "Incorrect time", dates.is_whole_time, (0,)),
        ("timediff", "Incorrect time", dates.is_whole_time, (0, 1)),
    )
    for name, words, fits, places in checks:
        found[name] = _of_text(functions[name], words, fits, places, moment)
    for name in ("divide", "divide_double", "integer_divide", "modulo", "remainder"):
        found[name] = _of_zero(functions[name], moment)
    for name in ("log", "ln", "log2", "log10"):
        found[name] = _of_zero(functions[name], moment)
    found["str_to_date"] = _of_pattern(functions["str_to_date"], moment)
    found["fit"] = _of_size(functions["fit"], moment)
    return found


def _of_text(function, words: str, fits, places, moment: Strictness) -> Callable:
    def compiled(*arguments):
        if moment.strict:
            for text in (arguments[place] for place in places):
                if isinstance(text, str) and not fits(text):
                    raise MySQLError(1292, f"{words} value: '{text[:_SHOWN]}'")
        return function(*arguments)

    return compiled


def _of_zero(function, moment: Strictness) -> Callable:
    def compiled(*arguments):
        found = function(*arguments)
        if found is None and moment.strict and None not in arguments:
            raise MySQLError(1365, "Division by 0")
        return found

    return compiled


def _of_pattern(function, moment: Strictness) -> Callable:
    def compiled(text, pattern, kind):
        found = function(text, pattern, kind)
        if found is None and moment.strict and None not in (text, pattern):
            name = "time" if kind == "time" else "datetime"
            raise MySQLError(
                1411,
                f"Incorrect {name} value: '{text[:_SHOWN]}' for function str_to_date",
            )
        return found

    return compiled


def _of_size(function, moment: Strictness) -> Callable:
    def compiled(value, precision, scale):
        found = function(value, precision, scale)
        if moment.strict and found != numbers.rounded(value, scale):
            raise MySQLError(1264, "Out of range value for column '(null)' at row 1")
        return found

    return compiled
