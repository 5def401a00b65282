"""Tables to work on and rows in one form, for the composite skills.

A composite skill needs two skills at once, and nobody trains an expert for it. Its
problems come without gold answers, so that what a search knows of it is verdicts only.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax.tasks.pocket.db_schemas import Schema
from cycleqd_jax.tasks.pocket.db_tables import Row, set_up


def fill(connection: sqlite3.Connection, schema: Schema, rows: Sequence[Row]) -> None:
    """Creates the table of a schema and inserts its rows."""
    ((create, insert),) = set_up({schema.table: schema.columns})
    connection.execute(create)
    connection.executemany(insert, rows)
    connection.commit()


def as_rows(value: Any) -> list[Row] | None:
    """A value as rows of cells, whatever holds them; None if it is something else.

    One cell is one row, and so is a tuple of cells. A list or set holds a row in each
    element, a dict a row of key and item in each entry.
    """
    if _is_cell(value):
        return [(value,)]
    if isinstance(value, tuple) and all(map(_is_cell, value)):
        return [value]
    if isinstance(value, dict):
        value = list(value.items())
    if not isinstance(value, (list, tuple, set, frozenset)):
        return None
    rows = [(one,) if _is_cell(one) else one for one in value]
    if not all(isinstance(r, (tuple, list)) and all(map(_is_cell, r)) for r in rows):
        return None
    return [tuple(row) for row in rows]


def fields_of(schema: Schema, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The values that fill a prompt: constants, and the table with columns."""
    columns = ", ".join(schema.columns)
    return {**fields, "table": f"{schema.table}({columns})"}


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, str))
