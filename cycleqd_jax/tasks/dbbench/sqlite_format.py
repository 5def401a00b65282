"""Rows as MySQL's connector for Python gives them, written by `str()`."""

import datetime
import math
from decimal import Decimal

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_numbers import float_text, rounded
from cycleqd_jax.tasks.dbbench.sqlite_types import Kind, Type


def cell(value, kind: Type):
    """The Python value of one cell.

    Raises:
      MySQLError: a float that is none (1690).
    """
    if value is None:
        return None
    match kind.kind:
        case Kind.INT:
            return _integer(value)
        case Kind.DECIMAL:
            return Decimal(rounded(value, kind.scale))
        case Kind.DOUBLE | Kind.FLOAT:
            return _float(value, kind)
        case Kind.DATE:
            return datetime.date.fromisoformat(value)
        case Kind.DATETIME:
            return datetime.datetime.fromisoformat(value)
        case Kind.TIME:
            return _time(value)
        case Kind.BINARY:
            return bytearray(value if isinstance(value, bytes) else value.encode())
        case _:
            return value


def _integer(value) -> int:
    if isinstance(value, float):
        raise MySQLError(1690, "BIGINT value is out of range")
    return int(value)


def _float(value, kind: Type) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise MySQLError(1690, "DOUBLE value is out of range")
    if kind.kind is Kind.FLOAT:
        return float(float_text(value))
    if kind.scale:
        value = round(value, kind.scale)
    return value if value else 0.0


def _time(value: str) -> datetime.timedelta:
    sign = -1 if value.startswith("-") else 1
    hours, minutes, seconds = value.lstrip("-").split(":")
    return sign * datetime.timedelta(
        hours=int(hours), minutes=int(minutes), seconds=float(seconds)
    )


def show(rows: list[tuple]) -> str:
    """The list of row tuples as text."""
    return str(rows)
