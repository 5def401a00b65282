"""Putting a value into a column, as MySQL's strict mode does it."""

import decimal

from cycleqd_jax.tasks.dbbench.sqlite_catalog import ColumnInfo
from cycleqd_jax.tasks.dbbench.sqlite_dates import (
    parse_datetime,
    parse_time,
    show_datetime,
)
from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_numbers import (
    double_text,
    float_text,
    leading_number,
    rounded,
)
from cycleqd_jax.tasks.dbbench.sqlite_types import Kind, Type

_TEXT_BYTES = 65535


def stored(column: ColumnInfo, value, kind: Type, row: int, ignore: bool):
    """What SQLite is to hold.

    Args:
      column: where it goes.
      value: of SQLite, or None.
      kind: the value's type.
      row: its number, for errors.
      ignore: whether what does not fit is made to fit.

    Raises:
      MySQLError: it does not fit (1048, 1264, 1366, 1406, 1292).
    """
    if value is None:
        if column.nullable or column.auto_increment:
            return None
        raise MySQLError(1048, f"Column '{column.name}' cannot be null")
    into = Kind(column.kind)
    if into in (Kind.TEXT, Kind.JSON):
        text = as_text(value, kind)
        limit = column.length or _TEXT_BYTES
        size = len(text) if column.length else len(text.encode())
        if size > limit:
            if ignore:
                return text[:limit]
            raise MySQLError(
                1406, f"Data too long for column '{column.name}' at row {row}"
            )
        return text
    if into is Kind.BINARY:
        return value if isinstance(value, bytes) else as_text(value, kind).encode()
    if into in (Kind.INT, Kind.DECIMAL, Kind.DOUBLE, Kind.FLOAT):
        return _number(column, value, kind, row, ignore)
    return _temporal(column, value, kind, row)


def as_text(value, kind: Type) -> str:
    """A value of SQLite as MySQL writes it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return float_text(value) if kind.kind is Kind.FLOAT else double_text(value)
    if kind.kind is Kind.DECIMAL and len(str(value).partition(".")[2]) < kind.scale:
        return rounded(str(value), kind.scale)
    return str(value)  # of a quotient all digits, also those that are not shown


def _number(column, value, kind, row, ignore):
    text = as_text(value, kind)
    number, rest = leading_number(text)
    if kind.kind not in (Kind.INT, Kind.DECIMAL, Kind.DOUBLE, Kind.FLOAT):
        if rest.strip() or number is None:
            if not ignore:
                names = {Kind.INT: "integer", Kind.DECIMAL: "decimal"}
                name = names.get(Kind(column.kind), "double")
                raise MySQLError(
                    1366,
                    f"Incorrect {name} value: '{text}' for column '{column.name}' at "
                    f"row {row}",
                )
    number = number or "0"
    if column.kind == Kind.INT:
        whole = int(decimal.Decimal(number).to_integral_value(decimal.ROUND_HALF_UP))
        low, high = _range(column.declared)
        if not low <= whole <= high:
            if not ignore:
                raise _out_of_range(column, row)
            whole = min(max(whole, low), high)
        return whole if abs(whole) < 2**63 else str(whole)
    if column.kind == Kind.DECIMAL:
        return rounded(number, column.scale)
    return float(number)


_BYTES = {"tinyint": 1, "smallint": 2, "mediumint": 3, "int": 4, "bigint": 8}


def _range(declared: str) -> tuple[int, int]:
    size = _BYTES.get(declared.partition("(")[0].partition(" ")[0], 8) * 8
    if "unsigned" in declared:
        return 0, 2**size - 1
    return -(2 ** (size - 1)), 2 ** (size - 1) - 1


def _out_of_range(column, row) -> MySQLError:
    return MySQLError(
        1264, f"Out of range value for column '{column.name}' at row {row}"
    )


def _temporal(column, value, kind, row):
    text = as_text(value, kind)
    if column.kind == Kind.TIME:
        found = parse_time(text)
        shown = found
    else:
        found = parse_datetime(text)
        shown = None if found is None else show_datetime(found)
        if found is not None and column.kind == Kind.DATE:
            shown = shown[:10]
    if shown is None:
        name = {Kind.DATE: "date", Kind.TIME: "time"}.get(Kind(column.kind), "datetime")
        raise MySQLError(
            1292,
            f"Incorrect {name} value: '{text}' for column '{column.name}' at row {row}",
        )
    return shown
