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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cycleqd_jax.tasks.pocket.db_schemas import Schema

Row = tuple[Any, ...]
Database = tuple[tuple[Row, ...], ...]  # the rows of each table
Columns = Mapping[str, Sequence[str]]  # table -> its columns

_NUM_TABLES = 2  # an answer must be right on all of them
_NUM_ROWS = 9
_MAX_DRAWS = 30
_MAX_CANDIDATES = 12
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
    """The effect of a statement on one database.

    Attributes:
      rows: the rows that it returns.
      table: all rows of its tables afterwards, which differ in their lengths.
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
    columns = {schema.table: schema.columns}
    wrong = tuple(mutants(statement, schema))
    best: tuple[Any, ...] | None = None
    for _ in range(_MAX_DRAWS):
        tables = tuple(draw_rows(schema, fields, rng) for _ in range(_NUM_TABLES))
        with contextlib.ExitStack() as stack:
            filled = [stack.enter_context(Filled(columns, (rows,))) for rows in tables]
            effects = tuple(database.apply(statement) for database in filled)
            survivors = 100 * sum(map(_is_nothing, effects, filled))
            for mutant in wrong:
                if best is not None and survivors >= best[0]:
                    break
                survivors += all(
                    _go_together(effect, database.apply(mutant), ordered)
                    for effect, database in zip(effects, filled, strict=True)
                )
        if best is None or survivors < best[0]:
            best = (survivors, tables, effects)
        if survivors == 0:
            break
    return best[1], best[2]


def telling_databases(
    columns: Columns,
    statement: str,
    draw: Callable[[], Database],
    wrong: Iterable[str],
    *,
    ordered: bool,
) -> tuple[tuple[Database, ...], tuple[Effect, ...]]:
    """Two to four random databases on which a right statement has the right effect.

    Each exposes statements with one mistake that have the right effect on those before
    it. Where there are too few such, another is added on which the statement returns or
    changes something, or at worst any other.

    Args:
      columns: table -> its columns.
      statement: a right statement.
      draw: makes random rows of all tables.
      wrong: statements with one mistake.
      ordered: whether the order of the rows counts.

    Returns:
      The rows of every database, and the statement's effect on each.
    """
    telling, others, idle = [], [], []
    unnoticed = list(dict.fromkeys(wrong))
    for _ in range(_MAX_CANDIDATES):
        database = draw()
        with Filled(columns, database) as filled:
            effect = filled.apply(statement)
            still = [
                mutant
                for mutant in unnoticed
                if _go_together(effect, filled.apply(mutant), ordered)
            ]
            if _is_nothing(effect, filled):
                idle.append((database, effect))
            elif len(still) == len(unnoticed):
                others.append((database, effect))
            else:
                telling.append((database, effect))
                unnoticed = still
        enough = 4 if unnoticed else 2
        if len(telling) + (0 if unnoticed else len(others)) >= enough:
            break
    chosen = (telling + others + idle)[: max(_NUM_TABLES, len(telling))]
    databases, effects = zip(*chosen, strict=True)
    return databases, effects


class Filled:
    """Tables in memory; each statement starts from the same rows.

    Attributes:
      before: all rows.
    """

    def __init__(self, columns: Columns, database: Database):
        self._tables = tuple(columns)
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        for (create, insert), rows in zip(set_up(columns), database, strict=True):
            self._connection.execute(create)
            self._connection.executemany(insert, rows)
        self.before = tuple(row for rows in database for row in rows)

    def __enter__(self) -> "Filled":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def apply(self, statement: str) -> Effect | None:
        """The effect of a trusted statement, or None if it is not valid."""
        execute = self._connection.execute
        try:
            if statement.startswith("SELECT"):  # which changes nothing
                return Effect(tuple(execute(statement).fetchall()), self.before)
            execute("BEGIN")
            try:
                rows = execute(statement).fetchall()
                after: list[Row] = []
                for table in self._tables:
                    after += execute(f"SELECT * FROM {table}").fetchall()
            finally:
                execute("ROLLBACK")
        except sqlite3.Error:
            return None
        return Effect(tuple(rows), tuple(after))


def _is_nothing(effect: Effect | None, filled: Filled) -> bool:
    """True if a statement returned and changed nothing."""
    return effect is None or (
        not effect.rows and same_rows(effect.table, filled.before)
    )


def _go_together(effect: Effect | None, other: Effect | None, ordered: bool) -> bool:
    """True if a statement with a mistake has the right effect."""
    return other is not None and same_effect(effect, other, ordered=ordered)


def set_up(columns: Columns) -> list[tuple[str, str]]:
    """By table, the statements that create it and insert a row.

    The first two columns are texts, the others integers.
    """
    statements = []
    for table, names in columns.items():
        kinds = ("TEXT", "TEXT", *["INTEGER"] * (len(names) - 2))
        pairs = (f"{c} {kind}" for c, kind in zip(names, kinds, strict=True))
        places = ", ".join("?" * len(names))
        statements.append(
            (
                f"CREATE TABLE {table} ({', '.join(pairs)})",
                f"INSERT INTO {table} VALUES ({places})",
            )
        )
    return statements


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


def draw_rows(
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


def mutants(statement: str, schema: Schema) -> Iterator[str]:
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
