"""Families of shell commands that ask a database file with the sqlite3 program.

A prompt is worded as those of the two skills it needs: the table and the rows as in
`db_templates`, the command as in `shell_templates`. In a template, names in braces are
those of `db_templates`, and `{h}` is a file that does not exist yet. What a right
command prints or leaves behind is computed here in Python; the answer's process never
sees it.
"""

# ruff: noqa: E501 (the families read best as a table)

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cycleqd_jax.tasks.pocket import db_tables
from cycleqd_jax.tasks.pocket.composite import fields_of
from cycleqd_jax.tasks.pocket.db_schemas import SCHEMAS
from cycleqd_jax.tasks.pocket.db_templates import draw_fields
from cycleqd_jax.tasks.pocket.generator import Draft

_FILES = "out.txt list.txt result.txt found.csv names.log report.md data.txt".split()

Lines = list[str]


def _same(lines: Lines, fields: Mapping[str, Any]) -> Lines:
    return lines


@dataclasses.dataclass(frozen=True)
class SqlShellTemplate:
    """One family of commands.

    Attributes:
      id: unique.
      demands: wordings after "Write one bash command with sqlite3:", separated by " | ".
      statement: a right SQL statement.
      rest: of a right command, after the statement.
      judged_by: "lines" or "set" (what is printed, in order or in any order), "file"
        (the same of the new file `{h}`, in any order) or "table" (the rows of the table
        afterwards).
      expected: makes the right lines of those that the statement prints.
      held_out: whether `train` leaves it out.
    """

    id: str
    demands: str
    statement: str
    rest: str = ""
    judged_by: str = "set"
    expected: Callable[[Lines, Mapping[str, Any]], Lines] = _same
    held_out: bool = False

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        schema = rng.choice(SCHEMAS)
        fields = fields_of(schema, draw_fields(schema, rng))
        fields["h"] = rng.choice(_FILES)
        database = f"{schema.table}.db"
        statement = self.statement.format(**fields)
        answer = f'sqlite3 {database} "{statement}"{self.rest.format(**fields)}'
        demand = rng.choice(self.demands.split(" | ")).format(**fields)
        prompt = (
            f"Table {fields['table']} is in {database}. Write one bash command with "
            f"sqlite3: {demand}."
        )

        def make_data(data_rng: random.Random) -> Mapping[str, Any]:
            tables, effects = db_tables.telling_tables(
                schema, statement, fields, data_rng, ordered=self.judged_by == "lines"
            )
            printed = [_printed(effect.rows) for effect in effects]
            return {
                "schema": schema,
                "database": database,
                "tables": tables,
                "lines": [self.expected(lines, fields) for lines in printed],
                "after": [effect.table for effect in effects],
                "judged_by": self.judged_by,
                "file": fields["h"],
            }

        return Draft(prompt, answer, make_data)


def _printed(rows: Sequence[Sequence[Any]]) -> Lines:
    """Rows as the sqlite3 program prints them."""
    return ["|".join(map(str, row)) for row in rows]


def _upper(lines: Lines, fields: Mapping[str, Any]) -> Lines:
    return [line.upper() for line in lines]


def _sorted(lines: Lines, fields: Mapping[str, Any]) -> Lines:
    return sorted(lines)


# fmt: off
TEMPLATES = (
    # Print what the statement returns.
    SqlShellTemplate("above", "print the {l} of all {t} with {n} above {k} | show the {l} where {n} is greater than {k}",
        "SELECT {l} FROM {t} WHERE {n} > {k};"),
    SqlShellTemplate("below", "print the {l} of all {t} with {n} below {k} | show the {l} where {n} is less than {k}",
        "SELECT {l} FROM {t} WHERE {n} < {k};", held_out=True),
    SqlShellTemplate("group", "print the {l} of all {t} with {g} '{a}' | show the {l} where {g} is '{a}'",
        "SELECT {l} FROM {t} WHERE {g} = '{a}';"),
    SqlShellTemplate("lookup", "print the {n} of '{one}' | show the {n} where {l} is '{one}'",
        "SELECT {n} FROM {t} WHERE {l} = '{one}';", judged_by="lines"),
    SqlShellTemplate("two_of_group", "print the {l} and {n} of all {t} with {g} '{a}' | show the {l} and {n} where {g} is '{a}'",
        "SELECT {l}, {n} FROM {t} WHERE {g} = '{a}';"),
    SqlShellTemplate("count_group", "count the {t} with {g} '{a}' | print how many {t} have {g} '{a}'",
        "SELECT COUNT(*) FROM {t} WHERE {g} = '{a}';", judged_by="lines"),
    SqlShellTemplate("count_above", "count the {t} with {n} above {k} | print how many {t} have {n} above {k}",
        "SELECT COUNT(*) FROM {t} WHERE {n} > {k};", judged_by="lines", held_out=True),
    SqlShellTemplate("sum_group", "print the total {n} where {g} is '{a}' | show the sum of {n} of all {t} with {g} '{a}'",
        "SELECT SUM({n}) FROM {t} WHERE {g} = '{a}';", judged_by="lines"),
    SqlShellTemplate("max_group", "print the largest {n} where {g} is '{a}' | show the highest {n} of all {t} with {g} '{a}'",
        "SELECT MAX({n}) FROM {t} WHERE {g} = '{a}';", judged_by="lines", held_out=True),
    SqlShellTemplate("sorted", "print the {l} of all {t} sorted by {n} | show the {l} ordered by {n} ascending",
        "SELECT {l} FROM {t} ORDER BY {n};", judged_by="lines"),
    SqlShellTemplate("best", "print the {l} with the highest {n} | show the {l} of the row with the largest {n}",
        "SELECT {l} FROM {t} ORDER BY {n} DESC LIMIT 1;", judged_by="lines"),
    SqlShellTemplate("count_each", "print each {g} and its number of {t} | show each {g} and how many {t} have it",
        "SELECT {g}, COUNT(*) FROM {t} GROUP BY {g};"),
    # Pass it through another command.
    SqlShellTemplate("alphabet", "print the {l} of all {t} with {n} above {k} in alphabetical order | show the sorted {l} where {n} is greater than {k}",
        "SELECT {l} FROM {t} WHERE {n} > {k};", " | sort", "lines", _sorted),
    SqlShellTemplate("alphabet_group", "print the {l} of all {t} with {g} '{a}' in alphabetical order | show the sorted {l} where {g} is '{a}'",
        "SELECT {l} FROM {t} WHERE {g} = '{a}';", " | sort", "lines", _sorted, held_out=True),
    SqlShellTemplate("upper", "print the {l} of all {t} with {g} '{a}' in upper case | show the {l} where {g} is '{a}' in capital letters",
        "SELECT {l} FROM {t} WHERE {g} = '{a}';", " | tr a-z A-Z", expected=_upper),
    SqlShellTemplate("upper_above", "print the {l} of all {t} with {n} above {k} in upper case | show the {l} where {n} is greater than {k} in capital letters",
        "SELECT {l} FROM {t} WHERE {n} > {k};", " | tr a-z A-Z", expected=_upper, held_out=True),
    SqlShellTemplate("mirrored", "print the {l} of all {t} with {n} above {k}, each spelled backwards | show each {l} with its characters reversed where {n} is greater than {k}",
        "SELECT {l} FROM {t} WHERE {n} > {k};", " | rev", expected=lambda s, c: [r[::-1] for r in s]),
    SqlShellTemplate("commas", "print the {l} and {n} of all {t} with {g} '{a}', separated by a comma | show the {l} and {n} where {g} is '{a}' with a comma between them",
        "SELECT {l}, {n} FROM {t} WHERE {g} = '{a}';", " | tr '|' ','", expected=lambda s, c: [r.replace("|", ",") for r in s]),
    SqlShellTemplate("containing", "print the {l} of all {t} with {n} above {k} that contain {c} | show each {l} with {c} in it where {n} is greater than {k}",
        "SELECT {l} FROM {t} WHERE {n} > {k};", " | grep {c}", expected=lambda s, c: [r for r in s if c["c"] in r]),
    SqlShellTemplate("numbered", "print the {l} of all {t} sorted by {n}, each after its number and a colon | show the {l} ordered by {n} as number:{l}",
        "SELECT {l} FROM {t} ORDER BY {n};", " | grep -n ''", "lines", lambda s, c: [f"{i}:{r}" for i, r in enumerate(s, 1)], held_out=True),
    # Save it.
    SqlShellTemplate("save_above", "write the {l} of all {t} with {n} above {k} to {h} | save the {l} where {n} is greater than {k} as {h}",
        "SELECT {l} FROM {t} WHERE {n} > {k};", " > {h}", "file"),
    SqlShellTemplate("save_group", "write the {l} of all {t} with {g} '{a}' to {h} | save the {l} where {g} is '{a}' as {h}",
        "SELECT {l} FROM {t} WHERE {g} = '{a}';", " > {h}", "file"),
    SqlShellTemplate("save_count", "write the number of {t} with {g} '{a}' to {h} | save how many {t} have {g} '{a}' as {h}",
        "SELECT COUNT(*) FROM {t} WHERE {g} = '{a}';", " > {h}", "file"),
    SqlShellTemplate("save_two", "write the {l} and {n} of all {t} with {g} '{a}' to {h} | save the {l} and {n} where {g} is '{a}' as {h}",
        "SELECT {l}, {n} FROM {t} WHERE {g} = '{a}';", " > {h}", "file", held_out=True),
    SqlShellTemplate("save_upper", "write the {l} of all {t} with {g} '{a}' in upper case to {h} | save the {l} where {g} is '{a}' in capital letters as {h}",
        "SELECT {l} FROM {t} WHERE {g} = '{a}';", " | tr a-z A-Z > {h}", "file", _upper),
    # Change the table.
    SqlShellTemplate("insert", "insert '{new}', '{a}', {x}, {y} | add the row '{new}', '{a}', {x}, {y}",
        "INSERT INTO {t} VALUES ('{new}', '{a}', {x}, {y});", judged_by="table"),
    SqlShellTemplate("set_number", "set the {m} of '{one}' to {v} | change {m} to {v} where {l} is '{one}'",
        "UPDATE {t} SET {m} = {v} WHERE {l} = '{one}';", judged_by="table"),
    SqlShellTemplate("increase", "increase {n} by {step} where {g} is '{a}' | add {step} to the {n} of all {t} with {g} '{a}'",
        "UPDATE {t} SET {n} = {n} + {step} WHERE {g} = '{a}';", judged_by="table"),
    SqlShellTemplate("delete_group", "delete all {t} with {g} '{a}' | delete the rows where {g} is '{a}'",
        "DELETE FROM {t} WHERE {g} = '{a}';", judged_by="table"),
    SqlShellTemplate("delete_below", "delete all {t} with {n} below {k} | delete the rows where {n} is less than {k}",
        "DELETE FROM {t} WHERE {n} < {k};", judged_by="table", held_out=True),
)
# fmt: on
