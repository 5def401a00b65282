"""Pocket SQL in Python: write a function that asks a database with SQL.

It is a composite of `pocket_coding` and `pocket_db`, and has no expert and no gold
answers. A program in the sandbox fills a table in SQLite's memory, calls the answer's
function with the connection and writes what it returned and the whole table, encoded by
`cycleqd_jax.tasks.values`. What is returned is compared as rows (`composite.as_rows`),
so that a list of names and a list of rows of one name are the same. The expected
results stay here.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.base import Problem
from cycleqd_jax.tasks.pocket.composite import as_rows
from cycleqd_jax.tasks.pocket.db_tables import Effect, same_effect, set_up
from cycleqd_jax.tasks.pocket.episode import PocketTask, python_program, why_stopped
from cycleqd_jax.tasks.pocket.pysql_templates import TEMPLATES

_MAX_ROWS = 100  # tables have nine rows, so more are wrong
_SETUP = """
import sqlite3
from itertools import islice
from values import encode

def open_table(rows):
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute({create!r})
    db.executemany({insert!r}, rows)
    return db
"""
# The result is the last line of standard output, in one write, whatever the answer has
# printed: a list of pairs, or the text of an error.
_RUNNER = """
def _main():
    import sys
    scope = {{"__name__": "answer", "sqlite3": sqlite3}}
    try:
        exec(compile({answer!r}, "answer.py", "exec"), scope)
        effects = []
        for rows in {tables!r}:
            db = open_table(rows)
            found = scope[{function!r}](db)
            if hasattr(found, "__next__"):
                found = list(islice(found, {max_rows}))
            after = db.execute("SELECT * FROM {table}").fetchmany({max_rows})
            effects.append((found, after))
        result = encode(effects)
    except BaseException as err:
        result = encode(type(err).__name__ + ": " + str(err)[:100])
    sys.__stdout__.write("\\n" + result + "\\n")


_main()
"""


class PocketPySql(PocketTask):
    """Write a Python function that runs SQL."""

    name = "pocket_pysql"
    answer_tag = "python"
    inspection_tag = "query"
    inspection_hint = " You may first run SQL in a ```query block."
    templates = TEMPLATES
    tokens_by_turns: ClassVar[Mapping[int, int]] = {1: 72, 2: 72}
    never_gold = True

    async def judge(self, problem: Problem, answer: str, sandbox: Sandbox) -> str:
        """Calls the answer's function on every table of the problem."""
        data = problem.data
        tables = data["tables"]
        effects = await self._run(
            problem,
            _RUNNER.format(
                answer=answer,
                tables=tables,
                function=data["function"],
                table=data["table"],
                max_rows=_MAX_ROWS,
            ),
            sandbox,
        )
        if isinstance(effects, str):
            return effects
        if len(effects) != len(tables):
            return "It gave no result."
        for wanted, after, (found, table) in zip(
            data["returned"], data["after"], effects, strict=True
        ):
            if data["changes"]:  # what it returns does not count
                wanted = found = []
            rows, left = as_rows(found), as_rows(table)
            is_dict = isinstance(found, dict)
            if rows is None or is_dict is not isinstance(wanted, dict):
                return f"It returned {values.describe(found)}."
            given = Effect(tuple(rows), tuple(left or ()))
            right = Effect(tuple(as_rows(wanted)), after)
            if not same_effect(right, given, ordered=data["ordered"]):
                return f"It returned {rows!r:.120} and left {len(given.table)} rows."
        return ""

    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Runs a statement on a copy of the first table and returns its rows."""
        rows = problem.data["tables"][0]
        script = (
            f"\ntry:\n    found = open_table({rows!r}).execute({action!r})\n"
            f"    found = [(found.fetchmany({_MAX_ROWS}), [])]\n"
            "except (sqlite3.Error, sqlite3.Warning) as err:\n"
            "    found = str(err)[:150]\n"
            "print(encode(found))\n"
        )
        effects = await self._run(problem, script, sandbox)
        if isinstance(effects, str):
            return effects
        found = as_rows(effects[0][0]) if effects else None
        return "\n".join(map(_line, found or ()))

    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """A look at the table's first rows."""
        action = f"SELECT * FROM {problem.data['table']} LIMIT 2;"
        return action, "\n".join(map(_line, problem.data["tables"][0][:2]))

    async def _run(
        self, problem: Problem, script: str, sandbox: Sandbox
    ) -> list[Any] | str:
        """The last output of a script: a list of pairs, or a sentence."""
        data = problem.data
        ((create, insert),) = set_up({data["table"]: data["columns"]})
        setup = _SETUP.format(create=create, insert=insert)
        execution = await sandbox.run(python_program(setup + script))
        if reason := why_stopped(execution):
            return reason
        last_line = execution.stdout.rstrip(b"\n").rpartition(b"\n")[2]
        try:
            effects = values.decode(last_line)
        except ValueError:
            return "It ended without a result."
        if isinstance(effects, str):
            return f"It failed with {effects}."
        is_pairs = isinstance(effects, list) and all(
            isinstance(pair, tuple) and len(pair) == 2 for pair in effects
        )
        return effects if is_pairs else "It gave no list of results."


def _line(row: tuple[Any, ...]) -> str:
    return "|".join("" if cell is None else str(cell) for cell in row)
