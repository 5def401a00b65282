"""Statements that name their database, which is called otherwise on our server.

The reference's database has the table's name, so that `USE name` and `name.name` are
right there. Neither strings nor columns of the table are taken for it.
"""

from collections.abc import Sequence

from cycleqd_jax.tasks.dbbench.backend import Table
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_lexer import Kind, Token, tokens

_NAMES = (Kind.WORD, Kind.QUOTED)
_BEFORE_TABLES = frozenset(
    "FROM JOIN INTO UPDATE TABLE INSERT REPLACE DESCRIBE DESC EXPLAIN EXISTS VIEW "
    "TRUNCATE".split()
)
_LISTS = frozenset("TABLES STATUS TRIGGERS EVENTS".split())


def with_database(sql: str, table: Table, database: str) -> str:
    """A statement with the database's real name where it names its database.

    Args:
      sql: as the model wrote it.
      table: of the problem; its name is the one by which a model knows the database.
      database: what it is called here; needs no escapes within backticks.
    """
    if table.name not in sql:
        return sql
    try:
        found = tokens(sql, Flavour.MARIADB)
    except MySQLError:  # longer than a statement may be
        return sql
    parts, end = [], 0
    for place, token in enumerate(found):
        if token.kind in _NAMES and token.value == table.name:
            if _is_database(found, place, table):
                parts += [sql[end : token.start], f"`{database}`"]
                end = token.end
    return "".join([*parts, sql[end:]])


def _is_database(found: Sequence[Token], place: int, table: Table) -> bool:
    words = [t.text.upper() for t in found[max(place - 3, 0) : place]]
    before = ["", "", "", *words][-3:]
    if before[2] == ".":
        return False
    if found[place + 1].text == ".":
        second = found[place + 2]
        columns = {column.lower() for column in table.columns}
        if second.kind in _NAMES and found[place + 3].text == ".":
            return True
        # Where a table is due this is one; EXTRACT(YEAR FROM name.column) is not.
        own, new = second.value == table.name, second.value.lower() not in columns
        return (own + new + (before[2] in _BEFORE_TABLES)) >= 2
    if before[2] in ("USE", "DATABASE", "SCHEMA"):
        return True
    if before[2] == "EXISTS":  # DROP DATABASE IF EXISTS, CREATE ... IF NOT EXISTS
        return bool({"DATABASE", "SCHEMA"} & {t.text.upper() for t in found[:place]})
    shows = found[0].text.upper() == "SHOW" and before[2] in ("FROM", "IN")
    return shows and (before[1] in _LISTS or before[0] in ("FROM", "IN"))
