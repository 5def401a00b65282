"""The rows of a JSONL or CSV file, and texts made of their fields.

Errors name the file and the line.
"""

import csv
import json
import pathlib
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.tasks.data import read_lines


class Row(NamedTuple):
    """One row.

    Attributes:
      where: its place, "FILE, line 3".
      line: its line, from 1.
      fields: name -> value.
    """

    where: str
    line: int
    fields: Mapping[str, Any]


def read_rows(path: pathlib.Path, *, is_csv: bool) -> list[Row]:
    """Reads a file in UTF-8.

    Args:
      path: of the file.
      is_csv: whether it is CSV; else it has one JSON object per line.

    Raises:
      BadInputError: names the file and the line, and says what is wrong there.
    """
    if is_csv:
        return _read_csv(path)
    rows = read_lines(path, {})
    return [Row(where, int(where.rpartition(" ")[2]), row) for where, row in rows]


def _read_csv(path: pathlib.Path) -> list[Row]:
    rows, line, names = [], 1, None
    try:
        # A byte order mark is no part of the first column's name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                where = f"{path}, line {line}"
                if names is None:
                    names = _column_names(where, cells)
                elif cells:
                    rows.append(Row(where, line, _csv_row(where, names, cells)))
                line = reader.line_num + 1
    except OSError as err:
        raise BadInputError(f"{path}: cannot be read ({err.strerror}).") from err
    except UnicodeDecodeError as err:
        raise BadInputError(f"{path}, line {line}: is not UTF-8 ({err}).") from err
    except csv.Error as err:
        raise BadInputError(f"{path}, line {line}: is not CSV ({err}).") from err
    if not rows:
        raise BadInputError(
            f"{path}: has no row; expected a line with the columns' names, then one "
            "row per problem."
        )
    return rows


def _column_names(where: str, cells: list[str]) -> list[str]:
    wrong = next((c for i, c in enumerate(cells) if not c or c in cells[:i]), None)
    if not cells or wrong is not None:
        raise BadInputError(
            f"{where}: expected a name for every column, each once, got "
            f"{show(', '.join(cells))}."
        )
    return cells


def _csv_row(where: str, names: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(names):
        raise BadInputError(
            f"{where}: has {len(cells)} cells, but the first line names {len(names)} "
            "columns; put quotes around a cell with commas or line breaks."
        )
    return dict(zip(names, cells, strict=True))


def field(row: Row, setting: str, name: str) -> Any:
    """The value of a field.

    Raises:
      BadInputError: the row has no such field; names the setting that asked for it.
    """
    if name not in row.fields:
        raise BadInputError(
            f"{row.where}: the field {show(name)}, which {setting} names, is missing; "
            f"the row has {show(', '.join(row.fields))}."
        )
    return row.fields[name]


def as_text(row: Row, setting: str, value: Any) -> str:
    """The text of a field: itself, or a number, true or false as JSON writes it.

    Raises:
      BadInputError: it is something else, like a list or null.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    kind = "null" if value is None else type(value).__name__
    raise BadInputError(
        f"{row.where}: {setting} is {kind}; expected a text, a number, true or false."
    )


class Template:
    """A text with fields in braces.

    Attributes:
      fields: the names of the fields.
    """

    def __init__(self, setting: str, text: str):
        """Reads it.

        Args:
          setting: its name, for messages.
          text: a brace of the text itself is doubled.

        Raises:
          BadInputError: a brace is open, or has more than a field's name in it.
        """
        self._setting = setting
        hint = "write {field} for a field, and {{ or }} for a brace"
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as err:
            raise BadInputError(f"{setting}: {err}; {hint}.") from err
        for _, name, form, conversion in parts:
            if name is not None and (not name or form or conversion):
                raise BadInputError(
                    f"{setting}: {{{name}{'!' if conversion else ''}"
                    f"{conversion or ''}{':' if form else ''}{form}}} is no field; "
                    f"{hint}."
                )
        self._parts = [(literal, name) for literal, name, _, _ in parts]
        self.fields = tuple(name for _, name in self._parts if name is not None)

    def render(self, row: Row, given: Mapping[str, str]) -> str:
        """The text of one row.

        Args:
          row: whose fields are filled in.
          given: texts of fields that are not taken from the row.

        Raises:
          BadInputError: a field is missing, or is no text.
        """
        found = []
        for literal, name in self._parts:
            found.append(literal)
            if name in given:
                found.append(given[name])
            elif name is not None:
                value = field(row, self._setting, name)
                found.append(as_text(row, f"the field {show(name)}", value))
        return "".join(found)


def value_of(row: Row, setting: str, text: str) -> Any:
    """The value that a setting names: a field's, or a text with fields in braces.

    Raises:
      BadInputError: a field is missing.
    """
    if "{" in text or "}" in text:
        return Template(setting, text).render(row, {})
    return field(row, setting, text)
