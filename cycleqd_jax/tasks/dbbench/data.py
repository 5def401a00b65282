"""Reads the problem file.

Its oddities have the effect that they have in the reference: column names are escaped
like texts, and where one row has another length than the table, no row is inserted.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.base import Problem
from cycleqd_jax.tasks.data import read_jsonl
from cycleqd_jax.tasks.dbbench import judge
from cycleqd_jax.tasks.dbbench.table import Table

_FIELDS = {
    "description": str,
    "add_description": str,
    "type": list,
    "label": list,
    "table": dict,
}
# As `mysql_real_escape_string` escapes texts. The reference also applies it to column
# names within backticks, where the escapes become part of the name.
_ESCAPES = {
    "\0": "\\0",
    "\n": "\\n",
    "\r": "\\r",
    "\\": "\\\\",
    "'": "\\'",
    '"': '\\"',
    "\x1a": "\\Z",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """The data with which a problem is run and judged; never shown to a model.

    Attributes:
      index: of the line, from 0.
      category: the problem's type.
      label: the expected values; for a modifying problem a statement that is right.
      target: what is compared: the label, or for a modifying problem the hash of the
        right table.
      table: what the database holds.
    """

    index: int
    category: str
    label: tuple[str, ...]
    target: str | tuple[str, ...]
    table: Table

    @property
    def modifies(self) -> bool:
        """True if the table's content decides, not the answer."""
        return self.category in judge.MODIFYING


def read_problems(path: pathlib.Path) -> tuple[Problem, ...]:
    """All problems of a file; a problem's id is the index of its line, from 0.

    Raises:
      BadInputError: names the file, the line and what is wrong.
    """
    rows = read_jsonl(path, _FIELDS)
    return tuple(
        _problem(index, row, f"{path}, line {index + 1}")
        for index, row in enumerate(rows)
    )


def column_name(name: str) -> str:
    """The name that a column has on the reference's server."""
    return "".join(_ESCAPES.get(character, character) for character in name)


def _problem(index: int, row: Mapping[str, Any], where: str) -> Problem:
    categories = _texts(row["type"], "type", where)
    label = _texts(row["label"], "label", where)
    modifies = categories[0] in judge.MODIFYING
    if modifies and not isinstance(row.get("answer_md5"), str):
        raise BadInputError(
            f"{where}: the field 'answer_md5' is missing or no text; a problem of type "
            f"{categories[0]} is judged by it."
        )
    target = row["answer_md5"] if modifies else label
    case = Case(index, categories[0], label, target, _table(row["table"], where))
    return Problem(
        f"dbbench/{index}",
        f"{row['description']}\n{row['add_description']}",
        label[0] if modifies else json.dumps(label, ensure_ascii=False),
        {"case": case},
    )


def _table(raw: Mapping[str, Any], where: str) -> Table:
    name, info = raw.get("table_name"), raw.get("table_info")
    if not isinstance(name, str) or not name:
        raise BadInputError(f"{where}: the field table.table_name is no text.")
    if not isinstance(info, dict):
        raise BadInputError(f"{where}: the field table.table_info is no object.")
    columns, rows = info.get("columns"), info.get("rows")
    if not isinstance(columns, list) or not columns:
        raise BadInputError(
            f"{where}: the field table.table_info.columns is no list of columns."
        )
    if not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in columns):
        raise BadInputError(
            f"{where}: the field table.table_info.columns has a column without a name."
        )
    if not isinstance(rows, list) or not all(
        isinstance(row, list)
        and all(cell is None or isinstance(cell, (str, int, float)) for cell in row)
        for row in rows
    ):
        raise BadInputError(
            f"{where}: the field table.table_info.rows is no list of lists of cells."
        )
    if any(len(row) != len(columns) for row in rows):
        rows = []  # the server refuses the one statement that inserts them all
    names = tuple(column_name(column["name"]) for column in columns)
    return Table(name, names, tuple(tuple(row) for row in rows))


def _texts(value: Sequence[Any], field: str, where: str) -> tuple[str, ...]:
    if not value or not all(isinstance(item, str) for item in value):
        raise BadInputError(
            f"{where}: the field {field!r} is {str(value)[:80]}; expected texts."
        )
    return tuple(value)
