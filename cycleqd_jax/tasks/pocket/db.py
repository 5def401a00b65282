"""Pocket databases: write one SQL statement, judged by what it returns and changes.

A program in the sandbox fills tables in SQLite's memory, executes the statement once
and writes the returned rows and all tables, encoded by `cycleqd_jax.tasks.values`.
Rows are compared as a multiset, in order where the problem demands one; column names do
not count. A statement that asks for rows must change no table. An answer must be right
on all databases of its problem. The expected effects stay here.
"""

from collections.abc import Sequence
from typing import Any

from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.base import Problem
from cycleqd_jax.tasks.pocket.db_hard_groups import GROUPS
from cycleqd_jax.tasks.pocket.db_hard_queries import QUERIES
from cycleqd_jax.tasks.pocket.db_held_out import HELD_OUT
from cycleqd_jax.tasks.pocket.db_tables import (
    Columns,
    Database,
    Effect,
    same_effect,
    set_up,
)
from cycleqd_jax.tasks.pocket.db_templates import TEMPLATES
from cycleqd_jax.tasks.pocket.episode import (
    HARD_TOKENS,
    PocketTask,
    python_program,
    why_stopped,
)

_MAX_ROWS = 100  # tables have nine rows, so more are wrong
# `execute` takes one statement; a second one is an error.
_RUNNER = """
import sqlite3
from values import encode

def _main():
    effects = []
    try:
        for database in {databases!r}:
            connection = sqlite3.connect(":memory:", isolation_level=None)
            for (create, insert), rows in zip({set_up!r}, database):
                connection.execute(create)
                connection.executemany(insert, rows)
            returned = connection.execute({statement!r}).fetchmany({max_rows})
            after = []
            for table in {tables!r}:
                rows = connection.execute("SELECT * FROM " + table)
                after += rows.fetchmany({max_rows})
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
        effects = await self.effects(problem, answer, sandbox)
        if isinstance(effects, str):
            return effects
        if len(effects) != len(problem.data["expected"]):
            return "It gave no result."
        for expected, actual in zip(problem.data["expected"], effects, strict=True):
            if not same_effect(expected, actual, ordered=problem.data["ordered"]):
                if expected.rows or actual.rows:
                    return f"It returned {list(actual.rows)!r:.120}."
                return "It left the table in another state."
        return ""

    async def effects(
        self, problem: Problem, answer: str, sandbox: Sandbox
    ) -> list[Effect] | str:
        """The effect of an answer on every database, or in a line why there is none."""
        return await self._execute(problem, answer, sandbox)

    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Runs a statement on a copy of the first table and returns its rows."""
        effects = await self._execute(problem, action, sandbox, first=True)
        if isinstance(effects, str):
            return effects
        return "\n".join(_line(row) for row in effects[0].rows) if effects else ""

    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """A look at the first rows of the last table."""
        columns, databases = self.contents(problem)
        action = f"SELECT * FROM {list(columns)[-1]} LIMIT 2;"
        return action, "\n".join(_line(row) for row in databases[0][-1][:2])

    def contents(self, problem: Problem) -> tuple[Columns, Sequence[Database]]:
        """The tables' columns, and their rows in each database of the problem."""
        data = problem.data
        return {data["table"]: data["columns"]}, [(rows,) for rows in data["tables"]]

    async def _execute(
        self, problem: Problem, statement: str, sandbox: Sandbox, first: bool = False
    ) -> list[Effect] | str:
        """The effect on each database or the first, or why there is none, in a line."""
        columns, databases = self.contents(problem)
        script = _RUNNER.format(
            databases=databases[:1] if first else databases,
            set_up=set_up(columns),
            tables=list(columns),
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


class PocketDbHard(PocketDb):
    """Query or change two tables: joins, subqueries, groups with conditions."""

    name = "pocket_db_hard"
    templates = (*QUERIES, *GROUPS)
    tokens_by_turns = HARD_TOKENS

    def contents(self, problem: Problem) -> tuple[Columns, Sequence[Database]]:
        """The tables' columns, and their rows in each database of the problem."""
        return problem.data["columns"], problem.data["databases"]


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
