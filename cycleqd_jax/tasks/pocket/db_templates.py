"""Families of SQL demands over small tables.

Every table has a unique label, a group and two integers, so that a template fits all
tables. In a template, `{l}`, `{g}`, `{n}` and `{m}` are these columns (the integers in
either order), `{t}` is the table and other names are constants.
"""

# ruff: noqa: E501 (the families read best as a table)

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.tasks.pocket import db_tables
from cycleqd_jax.tasks.pocket.db_schemas import SCHEMAS, Schema
from cycleqd_jax.tasks.pocket.generator import Draft


@dataclasses.dataclass(frozen=True)
class DbTemplate:
    """One family of SQL demands.

    Attributes:
      id: unique.
      demands: wordings, separated by " | ".
      statement: a right SQL statement.
      ordered: whether the demand asks for an order of the rows.
      held_out: whether `train` leaves it out.
    """

    id: str
    demands: str
    statement: str
    ordered: bool = False
    held_out: bool = False

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        schema = rng.choice(SCHEMAS)
        fields = draw_fields(schema, rng)
        kind = "query" if self.statement.startswith("SELECT") else "statement"
        demand = rng.choice(self.demands.split(" | ")).format(**fields)
        columns = ", ".join(schema.columns)
        prompt = f"Table {schema.table}({columns}). Write a SQL {kind}: {demand}."
        answer = self.statement.format(**fields)

        def make_data(data_rng: random.Random) -> Mapping[str, Any]:
            tables, expected = db_tables.telling_tables(
                schema, answer, fields, data_rng, ordered=self.ordered
            )
            return {
                "table": schema.table,
                "columns": schema.columns,
                "tables": tables,
                "expected": expected,
                "ordered": self.ordered,
            }

        return Draft(prompt, answer, make_data)


def draw_fields(schema: Schema, rng: random.Random) -> dict[str, Any]:
    """Random columns and constants that fit a table."""
    label, group, *_ = schema.columns
    n, m = rng.sample((2, 3), 2)
    low, high = schema.ranges[n - 2]
    g, h = rng.sample(schema.groups, 2)
    quarter = (high - low) // 4
    k = rng.randint(low + quarter, high - quarter)
    other_low, other_high = schema.ranges[m - 2]
    one, two = rng.sample(schema.labels, 2)
    return {
        "t": schema.table,
        "l": label,
        "g": group,
        "n": schema.columns[n],
        "m": schema.columns[m],
        "one": one,
        "two": two,
        "a": g,
        "b": h,
        "k": k,
        "top": k + rng.randint(2, quarter + 2),
        "v": rng.randint(other_low, other_high),
        "few": rng.randint(2, 5),
        "step": rng.randint(1, 9),
        "c": rng.choice(schema.labels)[0],
        "z": rng.choice(schema.labels)[-1],
        # A new row, in the order of the columns.
        "new": rng.choice(schema.labels) + rng.choice("abehirt"),
        "x": rng.randint(*schema.ranges[0]),
        "y": rng.randint(*schema.ranges[1]),
        "first": schema.columns[2],
        "second": schema.columns[3],
    }


# fmt: off
TEMPLATES = (
    # Rows by a condition.
    DbTemplate("above", "the {l} of all {t} with {n} above {k} | the {l} where {n} is greater than {k}",
        "SELECT {l} FROM {t} WHERE {n} > {k};"),
    DbTemplate("below", "the {l} of all {t} with {n} below {k} | the {l} where {n} is less than {k}",
        "SELECT {l} FROM {t} WHERE {n} < {k};"),
    DbTemplate("at_least", "the {l} of all {t} with {n} at least {k} | the {l} where {n} is {k} or more",
        "SELECT {l} FROM {t} WHERE {n} >= {k};"),
    DbTemplate("at_most", "the {l} of all {t} with {n} at most {k} | the {l} where {n} is {k} or less",
        "SELECT {l} FROM {t} WHERE {n} <= {k};", held_out=True),
    DbTemplate("equals", "the {l} of all {t} with {n} equal to {k} | the {l} where {n} is {k}",
        "SELECT {l} FROM {t} WHERE {n} = {k};"),
    DbTemplate("between", "the {l} of all {t} with {n} from {k} to {top} | the {l} where {n} is between {k} and {top}",
        "SELECT {l} FROM {t} WHERE {n} BETWEEN {k} AND {top};"),
    DbTemplate("group", "the {l} of all {t} with {g} '{a}' | the {l} where {g} is '{a}'",
        "SELECT {l} FROM {t} WHERE {g} = '{a}';"),
    DbTemplate("not_group", "the {l} of all {t} with {g} other than '{a}' | the {l} where {g} is not '{a}'",
        "SELECT {l} FROM {t} WHERE {g} != '{a}';"),
    DbTemplate("either_group", "the {l} of all {t} with {g} '{a}' or '{b}' | the {l} where {g} is '{a}' or '{b}'",
        "SELECT {l} FROM {t} WHERE {g} IN ('{a}', '{b}');"),
    DbTemplate("group_above", "the {l} where {g} is '{a}' and {n} is above {k} | the {l} of {t} with {g} '{a}' and {n} over {k}",
        "SELECT {l} FROM {t} WHERE {g} = '{a}' AND {n} > {k};"),
    DbTemplate("group_below", "the {l} where {g} is '{a}' and {n} is below {k} | the {l} of {t} with {g} '{a}' and {n} under {k}",
        "SELECT {l} FROM {t} WHERE {g} = '{a}' AND {n} < {k};", held_out=True),
    DbTemplate("group_or_above", "the {l} where {g} is '{a}' or {n} is above {k} | the {l} of {t} with {g} '{a}' or {n} over {k}",
        "SELECT {l} FROM {t} WHERE {g} = '{a}' OR {n} > {k};"),
    DbTemplate("starting", "the {l} of all {t} whose {l} starts with '{c}' | the {l} starting with '{c}'",
        "SELECT {l} FROM {t} WHERE {l} LIKE '{c}%';"),
    DbTemplate("ending", "the {l} of all {t} whose {l} ends with '{z}' | the {l} ending with '{z}'",
        "SELECT {l} FROM {t} WHERE {l} LIKE '%{z}';", held_out=True),
    DbTemplate("above_average", "the {l} of all {t} with {n} above the average {n} | the {l} where {n} is above its average",
        "SELECT {l} FROM {t} WHERE {n} > (SELECT AVG({n}) FROM {t});"),
    # One cell, other columns.
    DbTemplate("lookup", "the {n} of '{one}' | the {n} where {l} is '{one}'",
        "SELECT {n} FROM {t} WHERE {l} = '{one}';"),
    DbTemplate("lookup_two", "the {n} and {m} of '{one}' | the {n} and {m} where {l} is '{one}'",
        "SELECT {n}, {m} FROM {t} WHERE {l} = '{one}';"),
    DbTemplate("two_columns", "the {l} and {n} of all {t} | the {l} and {n} of every row",
        "SELECT {l}, {n} FROM {t};"),
    DbTemplate("two_of_group", "the {l} and {n} of all {t} with {g} '{a}' | the {l} and {n} where {g} is '{a}'",
        "SELECT {l}, {n} FROM {t} WHERE {g} = '{a}';"),
    DbTemplate("all_columns", "all columns of {t} with {n} above {k} | all columns where {n} is greater than {k}",
        "SELECT * FROM {t} WHERE {n} > {k};"),
    DbTemplate("sum_of_columns", "the {l} and {n} plus {m} of all {t} | the {l} and the sum of {n} and {m} of every row",
        "SELECT {l}, {n} + {m} FROM {t};"),
    DbTemplate("scaled", "the {l} and {n} times {few} of all {t} | the {l} and {few} times the {n} of every row",
        "SELECT {l}, {n} * {few} FROM {t};"),
    DbTemplate("distinct", "the distinct values of {g} | each different {g} once",
        "SELECT DISTINCT {g} FROM {t};"),
    # Numbers.
    DbTemplate("count_group", "how many {t} have {g} '{a}' | the number of {t} with {g} '{a}'",
        "SELECT COUNT(*) FROM {t} WHERE {g} = '{a}';"),
    DbTemplate("count_above", "how many {t} have {n} above {k} | the number of {t} with {n} greater than {k}",
        "SELECT COUNT(*) FROM {t} WHERE {n} > {k};"),
    DbTemplate("count_below", "how many {t} have {n} below {k} | the number of {t} with {n} less than {k}",
        "SELECT COUNT(*) FROM {t} WHERE {n} < {k};", held_out=True),
    DbTemplate("sum_group", "the total {n} where {g} is '{a}' | the sum of {n} of all {t} with {g} '{a}'",
        "SELECT SUM({n}) FROM {t} WHERE {g} = '{a}';"),
    DbTemplate("average_group", "the average {n} where {g} is '{a}' | the mean {n} of all {t} with {g} '{a}'",
        "SELECT AVG({n}) FROM {t} WHERE {g} = '{a}';"),
    DbTemplate("max_group", "the largest {n} where {g} is '{a}' | the highest {n} of all {t} with {g} '{a}'",
        "SELECT MAX({n}) FROM {t} WHERE {g} = '{a}';"),
    DbTemplate("min_group", "the smallest {n} where {g} is '{a}' | the lowest {n} of all {t} with {g} '{a}'",
        "SELECT MIN({n}) FROM {t} WHERE {g} = '{a}';", held_out=True),
    DbTemplate("spread", "the largest {n} minus the smallest {n} | the highest {n} minus the lowest {n}",
        "SELECT MAX({n}) - MIN({n}) FROM {t};"),
    # Orders.
    DbTemplate("sorted", "the {l} of all {t} sorted by {n} | the {l} ordered by {n} ascending",
        "SELECT {l} FROM {t} ORDER BY {n};", ordered=True),
    DbTemplate("sorted_down", "the {l} of all {t} sorted by {n}, largest first | the {l} ordered by {n} descending",
        "SELECT {l} FROM {t} ORDER BY {n} DESC;", ordered=True),
    DbTemplate("highest", "the {l} of the {few} {t} with the highest {n} | the {l} of the top {few} {t} by {n}",
        "SELECT {l} FROM {t} ORDER BY {n} DESC LIMIT {few};"),
    DbTemplate("lowest", "the {l} of the {few} {t} with the lowest {n} | the {l} of the bottom {few} {t} by {n}",
        "SELECT {l} FROM {t} ORDER BY {n} LIMIT {few};"),
    DbTemplate("best", "the {l} with the highest {n} | the {l} of the row with the largest {n}",
        "SELECT {l} FROM {t} ORDER BY {n} DESC LIMIT 1;"),
    DbTemplate("best_of_group", "the {l} with the highest {n} where {g} is '{a}' | the {l} of the '{a}' row with the largest {n}",
        "SELECT {l} FROM {t} WHERE {g} = '{a}' ORDER BY {n} DESC LIMIT 1;"),
    # Groups.
    DbTemplate("count_each", "each {g} and its number of {t} | each {g} and how many {t} have it",
        "SELECT {g}, COUNT(*) FROM {t} GROUP BY {g};"),
    DbTemplate("sum_each", "each {g} and its total {n} | each {g} and its sum of {n}",
        "SELECT {g}, SUM({n}) FROM {t} GROUP BY {g};"),
    DbTemplate("max_each", "each {g} and its largest {n} | each {g} and its highest {n}",
        "SELECT {g}, MAX({n}) FROM {t} GROUP BY {g};", held_out=True),
    DbTemplate("frequent", "each {g} with at least {few} {t} | each {g} that occurs {few} or more times",
        "SELECT {g} FROM {t} GROUP BY {g} HAVING COUNT(*) >= {few};"),
    # Changes.
    DbTemplate("insert", "insert '{new}', '{a}', {x}, {y} | add the row '{new}', '{a}', {x}, {y}",
        "INSERT INTO {t} VALUES ('{new}', '{a}', {x}, {y});"),
    DbTemplate("set_number", "set the {m} of '{one}' to {v} | change {m} to {v} where {l} is '{one}'",
        "UPDATE {t} SET {m} = {v} WHERE {l} = '{one}';"),
    DbTemplate("set_group", "set the {g} of '{one}' to '{a}' | change {g} to '{a}' where {l} is '{one}'",
        "UPDATE {t} SET {g} = '{a}' WHERE {l} = '{one}';"),
    DbTemplate("increase", "increase {n} by {step} where {g} is '{a}' | add {step} to the {n} of all {t} with {g} '{a}'",
        "UPDATE {t} SET {n} = {n} + {step} WHERE {g} = '{a}';"),
    DbTemplate("delete_one", "delete '{one}' | delete the row where {l} is '{one}'",
        "DELETE FROM {t} WHERE {l} = '{one}';"),
    DbTemplate("delete_group", "delete all {t} with {g} '{a}' | delete the rows where {g} is '{a}'",
        "DELETE FROM {t} WHERE {g} = '{a}';"),
    DbTemplate("delete_below", "delete all {t} with {n} below {k} | delete the rows where {n} is less than {k}",
        "DELETE FROM {t} WHERE {n} < {k};", held_out=True),
)
# fmt: on
