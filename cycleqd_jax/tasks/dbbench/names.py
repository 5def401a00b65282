"""Replaces the database's name in a statement by its real name on our server.

In the reference a problem's database has the name of its table, so `USE name` and
`name.name` are right there. Here many problems share a server, and each database has a
name of its own. Strings, comments and names of columns are left as they are.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from cycleqd_jax.tasks.dbbench.table import Table

# Each alternative consumes what it began, at the latest up to the end of the text, so
# that a statement is read in time proportional to its length.
_TOKEN = re.compile(
    r"""
    (?P<space> [\s\x00]++ | \#[^\n]*+ | --(?=[\s\x00]|\Z)[^\n]*+
             | /\*(?!!)(?:[^*]|\*(?!/))*+(?:\*/|\Z) )
  | (?P<string> '(?:[^'\\]|''|\\(?:.|\Z))*+(?:'|\Z)
              | "(?:[^"\\]|""|\\(?:.|\Z))*+(?:"|\Z) )
  | (?P<variable> @@?(?:[\w$.]++|`[^`]*+`) )
  | (?P<quoted> `(?:[^`]|``)*+(?:`|\Z) )
  | (?P<word> [\w$]++ )
  | (?P<other> . )
    """,
    re.X | re.S,
)
_BEFORE_TABLES = frozenset(
    "FROM JOIN INTO UPDATE TABLE INSERT REPLACE DESCRIBE DESC EXPLAIN EXISTS VIEW "
    "TRUNCATE".split()
)
_LISTS = frozenset("TABLES STATUS TRIGGERS EVENTS".split())


class _Token(NamedTuple):
    """One token; `name` is None unless it can be the name of something."""

    text: str
    name: str | None
    start: int
    end: int


_NOTHING = _Token("", None, 0, 0)


def with_database(sql: str, table: Table, database: str) -> str:
    """Puts the real name of the database wherever a statement names it.

    Args:
      sql: a statement, as the model wrote it.
      table: of the problem; the model knows the database by the table's name.
      database: its real name; needs no escapes within backticks.
    """
    if table.name not in sql:
        return sql
    tokens = _tokens(sql)
    parts, end = [], 0
    for place, token in enumerate(tokens):
        if token.name == table.name and _is_database(tokens, place, table):
            parts += [sql[end : token.start], f"`{database}`"]
            end = token.end
    return "".join([*parts, sql[end:]])


def _tokens(sql: str) -> list[_Token]:
    found = []
    for match in _TOKEN.finditer(sql):
        text, name = match.group(), None
        if match.lastgroup == "space":
            continue
        if match.lastgroup == "word":
            name = text
        elif match.lastgroup == "quoted":
            name = text[1:-1].replace("``", "`")
        found.append(_Token(text, name, *match.span()))
    return found


def _is_database(tokens: Sequence[_Token], place: int, table: Table) -> bool:
    """True if a token with the table's name means the database."""
    words = [token.text.upper() for token in tokens[max(place - 3, 0) : place]]
    third, second, first = ["", "", "", *words][-3:]  # the words before it
    dot, member, dot_2 = [*tokens[place + 1 : place + 4], *[_NOTHING] * 3][:3]
    if first == ".":
        return False
    if dot.text == ".":
        if member.name is not None and dot_2.text == ".":
            return True  # database.table.column
        # database.table or table.column. Two of three signs decide; FROM alone does
        # not: EXTRACT(YEAR FROM table.column).
        signs = (
            member.name == table.name,
            (member.name or member.text).lower()
            not in {column.lower() for column in table.columns},
            first in _BEFORE_TABLES,
        )
        return sum(signs) >= 2
    if first in ("USE", "DATABASE", "SCHEMA"):
        return True
    if first == "EXISTS":  # DROP DATABASE IF EXISTS, CREATE ... IF NOT EXISTS
        before = {token.text.upper() for token in tokens[max(place - 4, 0) : place]}
        return bool({"DATABASE", "SCHEMA"} & before)
    shows = tokens[0].text.upper() == "SHOW" and first in ("FROM", "IN")
    return shows and (second in _LISTS or third in ("FROM", "IN"))
