"""Pocket databases: write one SQL statement, judged by what it returns and changes.

A program in the sandbox fills a table in SQLite's memory, executes the statement once
and writes the returned rows and the whole table, encoded by `cycleqd_jax.tasks.values`.
Rows are compared as a multiset, in order where the problem demands one; column names do
not count. A statement that asks for rows must not change the table. An answer must be
right on all tables of its problem. The expected effects stay here.
"""

from typing import Any

from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.base import Problem
from cycleqd_jax.tasks.pocket.db_held_out import HELD_OUT
from cycleqd_jax.tasks.pocket.db_tables import Effect, create_table, same_effect
from cycleqd_jax.tasks.pocket.db_templates import TEMPLATES
from cycleqd_jax.tasks.pocket.episode import PocketTask, python_program, why_stopped

_MAX_ROWS = 100  # tables have nine rows, so more are wrong
# `execute` takes one statement; a second one is an error.
_RUNNER = """
import sqlite3
from values import encode

def _main():
    effects = []
    try:
        for rows in {tables!r}:
            connection = sqlite3.connect(":memory:", isolation_level=None)
            connection.execute({create!r})
            connection.executemany("INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)
            returned = connection.execute({statement!r}).fetchmany({max_rows})
            after = connection.execute("SELECT * FROM {table}").fetchmany({max_rows})
            effects.append((returned, after))
    except (sqlite3.Error, sqlite3.Warning, OverflowError) as err:
        effects = str(err)[:150]
    print(encode(effects))


_main()
"""


class PocketDb(PocketTask):
    """Query or change a table with one SQL statement."""

    name = "pocket_db"
    answer_tag = "sql"
    inspection_tag = "query"
    inspection_hint = " You may first run one in a ```query block."
    templates = (*TEMPLATES, *HELD_OUT)

    async def judge(self, problem: Problem, answer: str, sandbox: Sandbox) -> str:
        """Runs the statement on every table of the problem."""
        tables = problem.data["tables"]
        effects = await self._execute(problem, tables, answer, sandbox)
        if isinstance(effects, str):
            return effects
        if len(effects) != len(tables):
            return "It gave no result."
        for expected, actual in zip(problem.data["expected"], effects, strict=True):
            if not same_effect(expected, actual, ordered=problem.data["ordered"]):
                if expected.rows or actual.rows:
                    return f"It returned {list(actual.rows)!r:.120}."
                return "It left the table in another state."
        return ""

    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Runs a statement on a copy of the first table and returns its rows."""
        tables = problem.data["tables"][:1]
        effects = await self._execute(problem, tables, action, sandbox)
        if isinstance(effects, str):
            return effects
        return "\n".join(_line(row) for row in effects[0].rows) if effects else ""

    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """A look at the table's first rows."""
        action = f"SELECT * FROM {problem.data['table']} LIMIT 2;"
        return action, "\n".join(_line(row) for row in problem.data["tables"][0][:2])

    async def _execute(
        self, problem: Problem, tables: Any, statement: str, sandbox: Sandbox
    ) -> list[Effect] | str:
        """The effect on each table, or why there is none, in one line."""
        script = _RUNNER.format(
            tables=tables,
            table=problem.data["table"],
            create=create_table(problem.data["table"], problem.data["columns"]),
            statement=statement,
            max_rows=_MAX_ROWS,
        )
        execution = await sandbox.run(python_program(script))
        if reason := why_stopped(execution):
            return reason
        try:
            output = values.decode(execution.stdout.strip())
            return (
                f"SQLite says: {output}."
                if isinstance(output, str)
                else _effects(output)
            )
        except ValueError:
            return "It ended without a result."


def _effects(output: Any) -> list[Effect]:
    """Checks and converts the program's output, which may be forged.

    Raises:
      ValueError: it is no list of pairs of lists of rows of cells.
    """
    if not isinstance(output, list):
        raise ValueError("no list of effects")
    for effect in output:
        match effect:
            case (list(rows), list(table)) if isinstance(effect, tuple):
                if not all(map(_is_row, rows + table)):
                    raise ValueError("not a row")
            case _:
                raise ValueError("not an effect")
    return [Effect(tuple(rows), tuple(table)) for rows, table in output]


def _is_row(row: Any) -> bool:
    plain = (int, float, str, type(None))
    return isinstance(row, tuple) and all(isinstance(cell, plain) for cell in row)


def _line(row: tuple[Any, ...]) -> str:
    return "|".join("" if cell is None else str(cell) for cell in row)
