"""Small tables whose contents distinguish a right SQL statement from a wrong one.

Expected rows and tables are computed here, by the right statement in Python's SQLite.
The answer's process never sees them.
"""

import collections
import contextlib
import dataclasses
import random
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cycleqd_jax.tasks.pocket.db_schemas import Schema

Row = tuple[Any, ...]

_NUM_TABLES = 2  # an answer must be right on all of them
_NUM_ROWS = 9
_MAX_DRAWS = 30
# fmt: off
_SWAPS = (  # parts of a statement, and mistakes in their place
    ("!=", "="), (" = '", " != '"), (" > ", " < "), (" > ", " >= "), (" >= ", " > "),
    (" >= ", " <= "), (" < ", " <= "), (" < ", " > "), (" <= ", " < "),
    (" <= ", " >= "), (" AND ", " OR "), (" OR ", " AND "), (" DESC", ""),
    ("LIMIT", "DESC LIMIT"), ("MAX", "MIN"), ("MIN", "MAX"), ("MAX", "SUM"),
    ("MIN", "AVG"), ("SUM", "AVG"), ("AVG", "SUM"), ("SUM", "MAX"), ("AVG", "MAX"),
    ("COUNT(*)", "MAX(1)"), ("DISTINCT ", ""), (" + ", " - "), (" * ", " + "),
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class Effect:
    """The effect of a statement on one table.

    Attributes:
      rows: the rows that it returns.
      table: all rows of the table afterwards.
    """

    rows: tuple[Row, ...]
    table: tuple[Row, ...]


def telling_tables(
    schema: Schema,
    statement: str,
    fields: Mapping[str, Any],
    rng: random.Random,
    *,
    ordered: bool,
) -> tuple[tuple[tuple[Row, ...], ...], tuple[Effect, ...]]:
    """Random tables on which only a right statement has the right effect.

    A draw is good if the statement returns or changes something on every table, and if
    each statement with one mistake (another comparison, constant, aggregate, column or
    order, or no condition) has another effect on one of the tables. The first good draw
    is taken; if there is none, the draw with the fewest mistakes that go unnoticed.

    Args:
      schema: of the table.
      statement: a right statement.
      fields: the statement's constants; about half of the rows meet them.
      rng: consumed.
      ordered: whether the order of the rows counts.

    Returns:
      The rows of every table, and the statement's effect on each.
    """
    mutants = tuple(_mutants(statement, schema))
    best: tuple[Any, ...] | None = None
    for _ in range(_MAX_DRAWS):
        tables = tuple(_rows(schema, fields, rng) for _ in range(_NUM_TABLES))
        with contextlib.ExitStack() as stack:
            filled = [stack.enter_context(_Table(schema, rows)) for rows in tables]
            effects = tuple(table.apply(statement) for table in filled)
            survivors = 100 * sum(
                effect is None or (not effect.rows and same_rows(effect.table, rows))
                for effect, rows in zip(effects, tables, strict=True)
            )
            for mutant in mutants:
                if best is not None and survivors >= best[0]:
                    break
                survivors += all(
                    (result := table.apply(mutant)) is not None
                    and same_effect(effect, result, ordered=ordered)
                    for effect, table in zip(effects, filled, strict=True)
                )
        if best is None or survivors < best[0]:
            best = (survivors, tables, effects)
        if survivors == 0:
            break
    return best[1], best[2]


def apply(schema: Schema, rows: Sequence[Row], statement: str) -> Effect | None:
    """Runs a trusted statement; returns its effect, or None if it is not valid."""
    with _Table(schema, rows) as table:
        return table.apply(statement)


class _Table:
    """A table in memory; each statement starts from the same rows."""

    def __init__(self, schema: Schema, rows: Sequence[Row]):
        self._name = schema.table
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.execute(create_table(self._name, schema.columns))
        insert = f"INSERT INTO {self._name} VALUES (?, ?, ?, ?)"
        self._connection.executemany(insert, rows)

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def apply(self, statement: str) -> Effect | None:
        execute = self._connection.execute
        execute("BEGIN")
        try:
            rows = execute(statement).fetchall()
            table = execute(f"SELECT * FROM {self._name}").fetchall()
        except sqlite3.Error:
            return None
        finally:
            execute("ROLLBACK")
        return Effect(tuple(rows), tuple(table))


def create_table(table: str, columns: Sequence[str]) -> str:
    """The statement that creates a table: two columns of text, two of integers."""
    kinds = ("TEXT", "TEXT", "INTEGER", "INTEGER")
    pairs = (f"{c} {kind}" for c, kind in zip(columns, kinds, strict=True))
    return f"CREATE TABLE {table} ({', '.join(pairs)})"


def same_effect(expected: Effect, actual: Effect, *, ordered: bool) -> bool:
    """True if two effects are equal; the order of the table's rows never counts."""
    if not same_rows(expected.table, actual.table):
        return False
    if expected.rows == actual.rows:
        return True
    if ordered:
        return _rounded(expected.rows) == _rounded(actual.rows)
    return same_rows(expected.rows, actual.rows)


def same_rows(expected: Sequence[Row], actual: Sequence[Row]) -> bool:
    """True if both have the same rows, each equally often, in any order."""
    count = collections.Counter
    return expected == actual or count(_rounded(expected)) == count(_rounded(actual))


def _rounded(rows: Sequence[Row]) -> list[Row]:
    """Rows as they are compared: 2 equals 2.0, and six decimals count."""
    return [
        tuple(round(cell, 6) if isinstance(cell, float) else cell for cell in row)
        for row in rows
    ]


def _rows(
    schema: Schema, fields: Mapping[str, Any], rng: random.Random
) -> tuple[Row, ...]:
    """Rows with unique labels and numbers; about half of them meet the constants."""
    labels = [label for label in schema.labels if label != fields["one"]]
    labels = [fields["one"], *rng.sample(labels, _NUM_ROWS - 1)]
    groups = [fields["a"], fields["a"], fields["a"], fields["b"]]
    groups += rng.choices(schema.groups, k=_NUM_ROWS - len(groups))
    rng.shuffle(labels)
    rng.shuffle(groups)
    numbers = []
    for column, (low, high) in zip(schema.columns[2:], schema.ranges, strict=True):
        wanted = [fields["k"] - 1, fields["k"], fields["k"] + 1, fields["top"]]
        wanted = wanted if column == fields["n"] else []
        pool = [n for n in range(low, high + 1) if n not in wanted]
        cells = [*wanted, *rng.sample(pool, _NUM_ROWS - len(wanted))]
        rng.shuffle(cells)
        numbers.append(cells)
    return tuple(zip(labels, groups, *numbers, strict=True))


def _mutants(statement: str, schema: Schema) -> Iterator[str]:
    """Statements with one mistake."""
    for old, new in _SWAPS:
        if old in statement:
            yield statement.replace(old, new, 1)
    for number in re.finditer(r"\b\d+\b", statement):
        for change in (-1, 1):
            changed = str(int(number.group()) + change)
            yield statement[: number.start()] + changed + statement[number.end() :]
    for part in (r" WHERE [^()]*?(?= ORDER|;)", r" LIMIT \d+", r" HAVING [^;]*"):
        if (shorter := re.sub(part, "", statement)) != statement:
            yield shorter
    label, _, first, second = schema.columns
    for old, new in ((first, second), (second, first)):
        if re.search(rf"\b{old}\b", statement):
            swapped = re.sub(rf"\b{old}\b", new, statement)
            yield swapped
    if re.search(rf"SELECT {label}\b", statement):
        yield statement.replace(f"SELECT {label}", f"SELECT {first}", 1)
