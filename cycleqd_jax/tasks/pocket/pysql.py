"""Pocket SQL in Python: write a function that asks a database with SQL.

It is a composite of `pocket_coding` and `pocket_db`, and has no expert and no gold
answers. Its problems are those of the templates of `pocket_db`, and so is its verdict;
only that the statement comes from a Python function. A program in the sandbox fills the
tables, calls the function with the connection and writes what it returned and the whole
table. What is returned is compared as rows (`composite.as_rows`), so that a cursor, a
list of names and a list of rows of one name are the same.
"""

import dataclasses
import random
from collections.abc import Mapping
from typing import Any, ClassVar

from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.base import Problem
from cycleqd_jax.tasks.pocket.composite import as_rows
from cycleqd_jax.tasks.pocket.db import PocketDb
from cycleqd_jax.tasks.pocket.db_tables import Effect, set_up
from cycleqd_jax.tasks.pocket.episode import python_program, why_stopped
from cycleqd_jax.tasks.pocket.generator import Draft, Template

_NAMES = "solve compute calc run apply process fetch load ask".split()
_DEMAND = "Write a SQL"  # begins the demand of every prompt of `pocket_db`
_MAX_ROWS = 100  # tables have nine rows, so more are wrong
# The result is the last line of standard output, in one write, whatever the answer has
# printed: a list of pairs, or the text of an error.
_RUNNER = """
import sqlite3
from itertools import islice
from values import encode

def _main():
    import sys
    scope = {{"__name__": "answer", "sqlite3": sqlite3}}
    try:
        exec(compile({answer!r}, "answer.py", "exec"), scope)
        effects = []
        for database in {databases!r}:
            db = sqlite3.connect(":memory:", isolation_level=None)
            for (create, insert), rows in zip({set_up!r}, database):
                db.execute(create)
                db.executemany(insert, rows)
            found = scope[{function!r}](db)
            if hasattr(found, "__next__"):
                found = list(islice(found, {max_rows}))
            after = []
            for table in {tables!r}:
                rows = db.execute("SELECT * FROM " + table)
                after += rows.fetchmany({max_rows})
            effects.append((found, after))
        result = encode(effects)
    except BaseException as err:
        result = encode(type(err).__name__ + ": " + str(err)[:100])
    sys.__stdout__.write("\\n" + result + "\\n")


_main()
"""


@dataclasses.dataclass(frozen=True)
class InPython:
    """A template of `pocket_db` whose statement is asked for in a Python function.

    The wording of the statement's demand stays as `pocket_db` has it, and the prompt
    says how a function runs SQL: what is new is only that both come together.
    """

    inner: Template

    @property
    def id(self) -> str:
        """The same as that of the template of `pocket_db`."""
        return self.inner.id

    @property
    def held_out(self) -> bool:
        """The same as that of the template of `pocket_db`."""
        return self.inner.held_out

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        draft, name = self.inner.draw(rng), rng.choice(_NAMES)
        begin, found, rest = draft.prompt.partition(_DEMAND)
        if not found:
            raise ValueError(f"{draft.prompt!r} does not have {_DEMAND!r}")
        prompt = (
            f"{begin}Write a Python function {name}(db) that returns "
            f'db.execute("SQL") with the SQL{rest}'
        )
        answer = f'def {name}(db):\n    return db.execute("{draft.answer}")'

        def make_data(data_rng: random.Random) -> Mapping[str, Any]:
            return {"function": name, **draft.make_data(data_rng)}

        return Draft(prompt, answer, make_data)


class PocketPySql(PocketDb):
    """Write a Python function that runs SQL."""

    name = "pocket_pysql"
    answer_tag = "python"
    inspection_hint = " You may first run SQL in a ```query block."
    templates = tuple(map(InPython, PocketDb.templates))
    tokens_by_turns: ClassVar[Mapping[int, int]] = {1: 64, 2: 72}
    never_gold = True

    async def effects(
        self, problem: Problem, answer: str, sandbox: Sandbox
    ) -> list[Effect] | str:
        """Calls the answer's function on every database of the problem."""
        columns, databases = self.contents(problem)
        script = _RUNNER.format(
            answer=answer,
            databases=databases,
            set_up=set_up(columns),
            tables=list(columns),
            function=problem.data["function"],
            max_rows=_MAX_ROWS,
        )
        execution = await sandbox.run(python_program(script))
        if reason := why_stopped(execution):
            return reason
        last_line = execution.stdout.rstrip(b"\n").rpartition(b"\n")[2]
        try:
            found = values.decode(last_line)
        except ValueError:
            return "It ended without a result."
        if isinstance(found, str):
            return f"It failed with {found}."
        return _effects(found)


def _effects(output: Any) -> list[Effect] | str:
    """Checks and converts the program's output, which may be forged."""
    effects = []
    for pair in output if isinstance(output, list) else [None]:
        if not (isinstance(pair, tuple) and len(pair) == 2):
            return "It gave no list of results."
        # A function that only changes the table may return nothing.
        rows = [] if pair[0] is None else as_rows(pair[0])
        table = as_rows(pair[1])
        if rows is None or table is None:
            return f"It returned {values.describe(pair[0])}."
        effects.append(Effect(tuple(rows), tuple(table)))
    return effects
