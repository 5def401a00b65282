"""MySQL's functions and collations on a connection to SQLite."""

import functools
import random
import sqlite3
from collections.abc import Callable

from cycleqd_jax.tasks.dbbench import (
    sqlite_calendar,
    sqlite_json,
    sqlite_regexp,
    sqlite_text,
)
from cycleqd_jax.tasks.dbbench import sqlite_numbers as numbers
from cycleqd_jax.tasks.dbbench.sqlite_aggregators import WINDOWS, aggregates
from cycleqd_jax.tasks.dbbench.sqlite_catalog import ColumnInfo
from cycleqd_jax.tasks.dbbench.sqlite_collation import comparison, like, sort_key
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour
from cycleqd_jax.tasks.dbbench.sqlite_storing import stored
from cycleqd_jax.tasks.dbbench.sqlite_strict import strictly
from cycleqd_jax.tasks.dbbench.sqlite_types import Kind, Type

_NUMBERS = {
    "decimal": numbers.to_decimal,
    "round": None,
    "fit": numbers.fit,
    "add": numbers.add,
    "subtract": numbers.subtract,
    "multiply": numbers.multiply,
    "modulo": numbers.modulo,
    "integer_divide": numbers.integer_divide,
    "remainder": numbers.remainder,
    "int_add": numbers.integer_add,
    "int_subtract": numbers.integer_subtract,
    "int_multiply": numbers.integer_multiply,
    "integer": numbers.integer,
    "unsigned": numbers.unsigned,
    "bits": numbers.bits,
    "truncate": numbers.truncate_decimal,
    "round_integer": numbers.round_integer,
    "truncate_integer": numbers.truncate_integer,
    "round_double": numbers.round_double,
    "truncate_double": numbers.truncate_double,
    "double_text": numbers.double_text,
    "float_text": numbers.float_text,
    "float": numbers.single,
    "format": numbers.grouped,
    "abs": lambda v: None if v is None else v.lstrip("-"),
    "ceil_decimal": numbers.ceiling,
    "floor_decimal": numbers.floor,
    "cast_year": lambda v: v if v is None or 1900 < v < 2156 else None,
}


class Moment:
    """What changes from statement to statement: the time, random numbers.

    Attributes:
      now: `YYYY-MM-DD HH:MM:SS`.
      strict: whether text that is no whole number is an error in arithmetic, as it is
        where data are changed.
      error: the exception that a function of ours raised last, or None.
    """

    def __init__(self):
        self.now = "2024-01-01 00:00:00"
        self.random = random.Random(0)
        self.strict = False
        self.error: Exception | None = None

    def start(self, now: str, seed: int) -> None:
        """Before each statement."""
        self.now = now
        self.random.seed(seed)
        self.strict = False
        self.error = None


def register(connection: sqlite3.Connection, flavour: Flavour, moment: Moment) -> None:
    """Makes all functions, aggregates and collations known to `connection`."""
    key = sort_key(flavour)

    def fold(character: str) -> str:
        return key(character) or character

    found: dict[str, Callable] = {
        **sqlite_text.functions(),
        **sqlite_calendar.FUNCTIONS,
        **sqlite_regexp.FUNCTIONS,
        **sqlite_json.FUNCTIONS,
        **_NUMBERS,
        "round": _round,
        "locate": sqlite_text.locate(fold),
        "find_in_set": sqlite_text.find_in_set(key),
        "like": functools.partial(_like, fold),
        "sort_key": lambda text: None if text is None else key(text),
        "keys": lambda *keys: None if None in keys else repr(keys),
        "store": _store,
        "variable": lambda name: None,
        "number_compared": numbers.number,
        "number": numbers.number,
        "text_integer": numbers.text_integer,
        "text_decimal": numbers.text_decimal,
        "divide": numbers.divide,
        "divide_double": _divide,
    }
    found |= strictly(found, flavour, moment)
    if flavour is Flavour.MARIADB:
        found["regexp_substr"] = _or_empty(found["regexp_substr"])
    locate = found["locate"]
    found["instr"] = lambda text, part: locate(part, text)
    for name, function in found.items():
        connection.create_function(
            f"m_{name}", -1, _guarded(function, moment), deterministic=True
        )
    varying = {
        "m_now": lambda: moment.now,
        "m_rand": lambda *seed: _random(moment, *seed),
        "m_uuid": lambda: _uuid(moment),
    }
    for name, function in varying.items():
        connection.create_function(name, -1, _guarded(function, moment))
    for name, (count, kind) in aggregates(flavour).items():
        connection.create_aggregate(name, count, _guarded_class(kind, moment))
    for name, (count, kind) in WINDOWS.items():
        connection.create_window_function(name, count, _guarded_class(kind, moment))
    connection.create_collation("m_text", comparison(flavour))
    connection.create_collation("m_decimal", _compare_decimals)


def _or_empty(function: Callable) -> Callable:
    """An empty text instead of NULL, unless an argument is NULL."""

    def compiled(*arguments):
        found = function(*arguments)
        return "" if found is None and None not in arguments else found

    return compiled


def _divide(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _guarded(function: Callable, moment: Moment) -> Callable:
    """`function`, whose exceptions are kept: SQLite tells only that there was one."""

    def compiled(*arguments):
        try:
            return function(*arguments)
        except Exception as error:
            moment.error = error
            raise

    return compiled


def _guarded_class(kind: type, moment: Moment) -> type:
    class Guarded(kind):
        """`kind`, whose exceptions are kept."""

        def step(self, *arguments):
            """Takes a row in."""
            try:
                super().step(*arguments)
            except Exception as error:
                moment.error = error
                raise

    return Guarded


def _round(value, digits):
    """ROUND of a decimal, and decimals with a fixed number of digits.

    A number of digits that is the type's own is exact; see `sqlite_types`.
    """
    if digits is None:
        return None
    if digits < 0:
        return numbers.round_decimal(value, digits)
    return numbers.rounded(value, min(digits, 30))


def _like(fold, text, pattern, escape, exact):
    if text is None or pattern is None:
        return None
    if exact:
        return int(like(text, pattern, escape, str))
    return int(like(text, pattern, escape, fold))


def _store(value, kind, scale, into, into_scale, length, nullable, name, declared):
    column = ColumnInfo(
        name, "", into, into_scale, declared, length, nullable=bool(nullable)
    )
    return stored(column, value, Type(Kind(kind), scale), 1, False)


def _random(moment: Moment, *seed) -> float:
    if seed and seed[0] is not None:
        return random.Random(seed[0]).random()
    return moment.random.random()


def _uuid(moment: Moment) -> str:
    digits = f"{moment.random.getrandbits(128):032x}"
    return "-".join(
        (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    )


def _compare_decimals(left: str, right: str) -> int:
    if left == right:
        return 0
    a, b = numbers.Decimal(left), numbers.Decimal(right)
    return (a > b) - (a < b)
