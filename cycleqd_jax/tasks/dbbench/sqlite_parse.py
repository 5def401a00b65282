"""Parsing the plain form of a query (see `sqlite_grammar`) with sqlglot."""

import functools
from typing import ClassVar

from sqlglot import exp
from sqlglot.dialects.mysql import MySQL
from sqlglot.errors import SqlglotError

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError


class _Plain(MySQL):
    """MySQL without functions of its own: a call stays a name and its arguments."""

    class Parser(MySQL.Parser):
        FUNCTIONS: ClassVar = {}
        FUNCTION_PARSERS: ClassVar = {}
        NO_PAREN_FUNCTIONS: ClassVar = {}


@functools.cache
def _dialect() -> MySQL:
    return _Plain()


def parse_query(plain: str) -> exp.Expression:
    """The tree of a query.

    Raises:
      MySQLError: sqlglot does not take what our grammar took.
    """
    try:
        trees = _dialect().parse(plain)
    except RecursionError:
        raise MySQLError(1436, "Thread stack overrun") from None
    except SqlglotError as error:
        text = str(error).split("\n", maxsplit=1)[0][:200]
        raise MySQLError(
            1064, f"You have an error in your SQL syntax; {text}"
        ) from None
    if len(trees) != 1 or trees[0] is None:
        raise MySQLError(1064, "You have an error in your SQL syntax")
    return trees[0]
