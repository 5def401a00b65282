"""Families of Python functions that ask a table with SQL.

A prompt is worded as those of the two skills it needs: the table and the rows as in
`db_templates`, the function as in `coding_templates`. In a template, names in braces
are those of `db_templates`, and `{q}` is the call that runs the statement. Expected
results are computed here; the answer's process never sees them.
"""

# ruff: noqa: E501 (the families read best as a table)

import contextlib
import dataclasses
import random
import sqlite3
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.tasks.pocket import db_tables
from cycleqd_jax.tasks.pocket.composite import fields_of, fill
from cycleqd_jax.tasks.pocket.db_schemas import SCHEMAS
from cycleqd_jax.tasks.pocket.db_templates import draw_fields
from cycleqd_jax.tasks.pocket.generator import Draft

_NAMES = "solve compute calc run apply process fetch load ask".split()


@dataclasses.dataclass(frozen=True)
class PySqlTemplate:
    """One family of functions.

    Attributes:
      id: unique.
      demands: wordings of what the function returns, or, with `changes`, does; they are
        separated by " | ".
      statement: a right SQL statement.
      expression: of a right function, with `{q}` for the result of the statement.
      ordered: whether the order of what is returned counts.
      changes: whether the function changes the table and returns nothing.
      held_out: whether `train` leaves it out.
    """

    id: str
    demands: str
    statement: str
    expression: str = "{q}.fetchall()"
    ordered: bool = False
    changes: bool = False
    held_out: bool = False

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        schema = rng.choice(SCHEMAS)
        fields = fields_of(schema, draw_fields(schema, rng))
        name = rng.choice(_NAMES)
        statement = self.statement.format(**fields)
        call = f'db.execute("{statement}")'
        expression = self.expression.format(**{**fields, "q": call})
        body = expression if self.changes else f"return {expression}"
        demand = rng.choice(self.demands.split(" | ")).format(**fields)
        verb = (
            "that will" if self.changes else rng.choice(("that returns", "returning"))
        )
        prompt = (
            f"Table {fields['table']} is in the sqlite3 connection db. Write a Python "
            f"function {name}(db) {verb} {demand}."
        )

        def make_data(data_rng: random.Random) -> Mapping[str, Any]:
            tables, effects = db_tables.telling_tables(
                schema, statement, fields, data_rng, ordered=self.ordered
            )
            returned = [None] * len(tables)
            if not self.changes:
                returned = [_evaluated(expression, schema, rows) for rows in tables]
            return {
                "function": name,
                "table": schema.table,
                "columns": schema.columns,
                "tables": tables,
                "returned": returned,
                "after": [effect.table for effect in effects],
                "ordered": self.ordered,
                "changes": self.changes,
            }

        return Draft(prompt, f"def {name}(db):\n    {body}", make_data)


def _evaluated(expression: str, schema: Any, rows: Any) -> Any:
    """The value of a trusted expression, text of this file, on a table."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        fill(db, schema, rows)
        return eval(expression, {"db": db})


# fmt: off
TEMPLATES = (
    # What the statement alone returns.
    PySqlTemplate("above", "the {l} of all {t} with {n} above {k} | the {l} where {n} is greater than {k}",
        "SELECT {l} FROM {t} WHERE {n} > {k};"),
    PySqlTemplate("below", "the {l} of all {t} with {n} below {k} | the {l} where {n} is less than {k}",
        "SELECT {l} FROM {t} WHERE {n} < {k};", held_out=True),
    PySqlTemplate("group", "the {l} of all {t} with {g} '{a}' | the {l} where {g} is '{a}'",
        "SELECT {l} FROM {t} WHERE {g} = '{a}';"),
    PySqlTemplate("two_columns", "the {l} and {n} of all {t} | the {l} and {n} of every row",
        "SELECT {l}, {n} FROM {t};"),
    PySqlTemplate("two_of_group", "the {l} and {n} of all {t} with {g} '{a}' | the {l} and {n} where {g} is '{a}'",
        "SELECT {l}, {n} FROM {t} WHERE {g} = '{a}';"),
    PySqlTemplate("sorted", "the {l} of all {t} sorted by {n} | the {l} ordered by {n} ascending",
        "SELECT {l} FROM {t} ORDER BY {n};", ordered=True),
    PySqlTemplate("highest", "the {l} of the {few} {t} with the highest {n} | the {l} of the top {few} {t} by {n}",
        "SELECT {l} FROM {t} ORDER BY {n} DESC LIMIT {few};"),
    PySqlTemplate("lookup", "the {n} of '{one}' | the {n} where {l} is '{one}'",
        "SELECT {n} FROM {t} WHERE {l} = '{one}';", "{q}.fetchone()[0]"),
    PySqlTemplate("best", "the {l} with the highest {n} | the {l} of the row with the largest {n}",
        "SELECT {l} FROM {t} ORDER BY {n} DESC LIMIT 1;", "{q}.fetchone()[0]"),
    PySqlTemplate("count_group", "how many {t} have {g} '{a}' | the number of {t} with {g} '{a}'",
        "SELECT COUNT(*) FROM {t} WHERE {g} = '{a}';", "{q}.fetchone()[0]"),
    PySqlTemplate("count_above", "how many {t} have {n} above {k} | the number of {t} with {n} greater than {k}",
        "SELECT COUNT(*) FROM {t} WHERE {n} > {k};", "{q}.fetchone()[0]", held_out=True),
    PySqlTemplate("sum_group", "the total {n} where {g} is '{a}' | the sum of {n} of all {t} with {g} '{a}'",
        "SELECT SUM({n}) FROM {t} WHERE {g} = '{a}';", "{q}.fetchone()[0]"),
    PySqlTemplate("max_group", "the largest {n} where {g} is '{a}' | the highest {n} of all {t} with {g} '{a}'",
        "SELECT MAX({n}) FROM {t} WHERE {g} = '{a}';", "{q}.fetchone()[0]", held_out=True),
    PySqlTemplate("count_each", "each {g} and its number of {t} | each {g} and how many {t} have it",
        "SELECT {g}, COUNT(*) FROM {t} GROUP BY {g};"),
    # What Python makes of it.
    PySqlTemplate("dict", "a dict from {l} to {n} of all {t} | a dict with each {l} and its {n}",
        "SELECT {l}, {n} FROM {t};", "dict({q})"),
    PySqlTemplate("dict_group", "a dict from {l} to {n} of all {t} with {g} '{a}' | a dict with each {l} and its {n} where {g} is '{a}'",
        "SELECT {l}, {n} FROM {t} WHERE {g} = '{a}';", "dict({q})", held_out=True),
    PySqlTemplate("upper", "the {l} of all {t} with {n} above {k}, in upper case | each {l} in upper case where {n} is greater than {k}",
        "SELECT {l} FROM {t} WHERE {n} > {k};", "[r[0].upper() for r in {q}]"),
    PySqlTemplate("backwards", "the {l} of all {t} with {g} '{a}', each spelled backwards | each {l} reversed where {g} is '{a}'",
        "SELECT {l} FROM {t} WHERE {g} = '{a}';", "[r[0][::-1] for r in {q}]"),
    PySqlTemplate("lengths", "the length of the {l} of all {t} with {g} '{a}' | the length of each {l} where {g} is '{a}'",
        "SELECT {l} FROM {t} WHERE {g} = '{a}';", "[len(r[0]) for r in {q}]", held_out=True),
    PySqlTemplate("alphabet", "the {l} of all {t} with {n} above {k}, in alphabetical order | the sorted {l} where {n} is greater than {k}",
        "SELECT {l} FROM {t} WHERE {n} > {k};", "sorted(r[0] for r in {q})", ordered=True),
    PySqlTemplate("joined", "a string with the {l} of all {t} sorted by {n}, joined by ',' | the {l} ordered by {n} as one string with ',' between them",
        "SELECT {l} FROM {t} ORDER BY {n};", "','.join(r[0] for r in {q})"),
    PySqlTemplate("times", "the {n} times {few} of all {t} with {g} '{a}' | each {n} multiplied by {few} where {g} is '{a}'",
        "SELECT {n} FROM {t} WHERE {g} = '{a}';", "[r[0] * {few} for r in {q}]", held_out=True),
    PySqlTemplate("squares", "the sum of the squares of the {n} of all {t} with {g} '{a}' | the sum of squares of {n} where {g} is '{a}'",
        "SELECT {n} FROM {t} WHERE {g} = '{a}';", "sum(r[0] ** 2 for r in {q})"),
    PySqlTemplate("evens", "the even {n} of all {t} with {g} '{a}' | each even {n} where {g} is '{a}'",
        "SELECT {n} FROM {t} WHERE {g} = '{a}';", "[r[0] for r in {q} if r[0] % 2 == 0]", held_out=True),
    PySqlTemplate("starting", "the {l} of all {t} with {n} above {k} that start with '{c}' | each {l} starting with '{c}' where {n} is greater than {k}",
        "SELECT {l} FROM {t} WHERE {n} > {k};", "[r[0] for r in {q} if r[0].startswith('{c}')]"),
    PySqlTemplate("contains", "whether '{one}' is the {l} of any of the {t} with {g} '{a}' | whether there is a {l} '{one}' where {g} is '{a}'",
        "SELECT {l} FROM {t} WHERE {g} = '{a}';", "('{one}',) in {q}.fetchall()"),
    PySqlTemplate("pairs", "the {l} with {n} plus {m} of all {t} with {g} '{a}' | each {l} and the sum of its {n} and {m} where {g} is '{a}'",
        "SELECT {l}, {n}, {m} FROM {t} WHERE {g} = '{a}';", "[(r[0], r[1] + r[2]) for r in {q}]"),
    # Changes.
    PySqlTemplate("insert", "insert '{new}', '{a}', {x}, {y} | add the row '{new}', '{a}', {x}, {y}",
        "INSERT INTO {t} VALUES ('{new}', '{a}', {x}, {y});", "{q}", changes=True),
    PySqlTemplate("set_number", "set the {m} of '{one}' to {v} | change {m} to {v} where {l} is '{one}'",
        "UPDATE {t} SET {m} = {v} WHERE {l} = '{one}';", "{q}", changes=True),
    PySqlTemplate("increase", "increase {n} by {step} where {g} is '{a}' | add {step} to the {n} of all {t} with {g} '{a}'",
        "UPDATE {t} SET {n} = {n} + {step} WHERE {g} = '{a}';", "{q}", changes=True),
    PySqlTemplate("delete_group", "delete all {t} with {g} '{a}' | delete the rows where {g} is '{a}'",
        "DELETE FROM {t} WHERE {g} = '{a}';", "{q}", changes=True),
    PySqlTemplate("delete_below", "delete all {t} with {n} below {k} | delete the rows where {n} is less than {k}",
        "DELETE FROM {t} WHERE {n} < {k};", "{q}", changes=True, held_out=True),
)
# fmt: on
