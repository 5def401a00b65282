"""Rows of a result as the text that the reference's connector makes of them.

That is `str()` of a list of tuples of Python values, as mysql-connector 8.0 with its C
extension gives them: `[('Tiree', Decimal('1.50'), datetime.date(2020, 1, 2), None)]`.
"""

import datetime
import decimal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pymysql.constants import FIELD_TYPE, FLAG

_BINARY_CHARSET = 63
_BINARY_BLOB = FLAG.BLOB | FLAG.BINARY
_STRINGS = (
    FIELD_TYPE.VARCHAR,
    FIELD_TYPE.VAR_STRING,
    FIELD_TYPE.STRING,
    FIELD_TYPE.TINY_BLOB,
    FIELD_TYPE.MEDIUM_BLOB,
    FIELD_TYPE.LONG_BLOB,
    FIELD_TYPE.BLOB,
    FIELD_TYPE.GEOMETRY,
)


class _Members(frozenset):
    """The value of a SET column; its members are written in sorted order."""

    def __repr__(self) -> str:
        if not self:
            return "set()"
        return "{" + ", ".join(repr(member) for member in sorted(self)) + "}"


def converters() -> Mapping[int, Callable[[Any], Any]]:
    """PyMySQL's `conv`: type of a field -> what makes a Python value of its text.

    Types without an entry keep what PyMySQL gives: `str`, or `bytes` for binary fields.
    """
    whole = (
        FIELD_TYPE.TINY,
        FIELD_TYPE.SHORT,
        FIELD_TYPE.LONG,
        FIELD_TYPE.LONGLONG,
        FIELD_TYPE.INT24,
        FIELD_TYPE.YEAR,
    )
    return {
        **dict.fromkeys(whole, int),
        FIELD_TYPE.FLOAT: float,
        FIELD_TYPE.DOUBLE: float,
        FIELD_TYPE.DECIMAL: decimal.Decimal,
        FIELD_TYPE.NEWDECIMAL: decimal.Decimal,
        FIELD_TYPE.DATE: _date,
        FIELD_TYPE.NEWDATE: _date,
        FIELD_TYPE.DATETIME: _datetime,
        FIELD_TYPE.TIMESTAMP: _datetime,
        FIELD_TYPE.TIME: _time,
        FIELD_TYPE.BIT: lambda value: int.from_bytes(value, "big"),
    }


def finishers(fields: Sequence[Any]) -> list[Callable[[Any], Any] | None]:
    """For each column, what still has to be done to its values; None for nothing.

    Args:
      fields: of a result, each with `type_code`, `flags` and `charsetnr`; the last two
        are not known to `converters`.
    """
    return [_finisher(field) for field in fields]


def row_text(row: Sequence[Any], finish: Sequence[Callable[[Any], Any] | None]) -> str:
    """One row as `str()` of a tuple, after the columns' `finishers`."""
    return repr(
        tuple(
            value if value is None or function is None else function(value)
            for value, function in zip(row, finish, strict=True)
        )
    )


def _finisher(field: Any) -> Callable[[Any], Any] | None:
    binary = field.charsetnr == _BINARY_CHARSET
    if field.flags & FLAG.SET:
        return _set
    if (
        field.type_code == FIELD_TYPE.BLOB
        and field.flags & _BINARY_BLOB == _BINARY_BLOB
    ):
        # Columns of texts with a binary collation are among these, and MariaDB's JSON.
        return None if binary else str.encode
    return bytearray if binary and field.type_code in _STRINGS else None


def _date(text: str) -> datetime.date | None:
    try:  # dates with zeros in them are none
        return datetime.date(*(int(part) for part in text.split("-")))
    except ValueError:
        return None


def _datetime(text: str) -> datetime.datetime | None:
    date, _, time = text.partition(" ")
    day, span = _date(date), _time(time or "00:00:00")
    if day is None or span is None:
        return None
    return datetime.datetime.combine(day, datetime.time()) + span


def _time(text: str) -> datetime.timedelta | None:
    clock, _, fraction = text.lstrip("-").partition(".")
    try:
        hours, minutes, seconds = (int(part) for part in clock.split(":"))
    except ValueError:
        return None
    span = datetime.timedelta(
        hours=hours,
        minutes=minutes,
        seconds=seconds,
        microseconds=int(fraction.ljust(6, "0")[:6] or 0),
    )
    return -span if text.startswith("-") else span


def _set(text: str) -> _Members:
    return _Members(text.split(",")) if text else _Members()
