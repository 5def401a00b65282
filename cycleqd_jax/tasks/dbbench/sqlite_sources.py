"""Compiling what stands behind FROM to SQL for SQLite."""

from sqlglot import exp

from cycleqd_jax.tasks.dbbench.sqlite_catalog import foreign
from cycleqd_jax.tasks.dbbench.sqlite_errors import (
    MySQLError,
    no_such_table,
    unknown_column,
)
from cycleqd_jax.tasks.dbbench.sqlite_information import information_table
from cycleqd_jax.tasks.dbbench.sqlite_operators import all_of, compare
from cycleqd_jax.tasks.dbbench.sqlite_parse import parse_query
from cycleqd_jax.tasks.dbbench.sqlite_scope import Column, Scope, Source
from cycleqd_jax.tasks.dbbench.sqlite_types import Value


class Sources:
    """Compiles the tables of one query, and puts them into its scope.

    Args:
      queries: compiles subqueries and knows the catalog.
      scope: of the query.
      expressions: compiles the conditions of joins.
      common: WITH tables, name -> (name in SQLite, columns).
    """

    def __init__(self, queries, scope: Scope, expressions, common: dict):
        self._queries = queries
        self._scope = scope
        self._expressions = expressions
        self._common = common

    def compile(self, node: exp.Select) -> str:
        """SQL of what follows FROM, "" for nothing."""
        start = node.args.get("from_")
        if start is None:
            return ""
        sql = self._table(start.this)
        return self._joins(sql, node.args.get("joins") or ())

    def _joins(self, sql: str, joins) -> str:
        for join in joins:
            sql = self._join(sql, join)
        return sql

    def _join(self, left: str, join: exp.Join) -> str:
        before = len(self._scope.sources)
        right = self._table(join.this)
        side = (join.side or "").upper()
        condition = ""
        if join.args.get("using"):
            names = [column.name for column in join.args["using"]]
            condition = self._using(before, names, side)
        elif (join.method or "").upper() == "NATURAL":
            names = self._shared(before)
            condition = self._using(before, names, side) if names else ""
        elif join.args.get("on") is not None:
            scope = self._scope
            scope.clause, scope.allow_aggregates = "on clause", False
            condition = self._expressions.condition(join.args["on"])
            scope.clause, scope.allow_aggregates = "field list", True
            scope.bare.clear()
        if side == "RIGHT":
            # As a LEFT JOIN the other way round, which every SQLite knows.
            return f"{_one(right)} LEFT JOIN {_one(left)} ON {condition or '1'}"
        word = "LEFT JOIN" if side == "LEFT" else "CROSS JOIN"
        if side != "LEFT" and all(s.table for s in self._scope.sources[:2]):
            if len(self._scope.sources) == 2:  # a server holds the first in a buffer
                left, right = right, left
        return f"{left} {word} {right}" + (f" ON {condition}" if condition else "")

    def _shared(self, before: int) -> list[str]:
        """Names that both sides of a NATURAL JOIN have, in the left one's order."""
        sources = self._scope.sources
        right = {c.name.lower() for s in sources[before:] for c in s.columns}
        names = []
        for source in sources[:before]:
            for column in source.columns:
                if column.name.lower() in right and column.name not in names:
                    names.append(column.name)
        return names

    def _using(self, before: int, names: list[str], side: str) -> str:
        sources = self._scope.sources
        conditions = []
        for name in names:
            left = _first(sources[:before], name)
            right = _first(sources[before:], name)
            if left is None or right is None:
                raise unknown_column(name, "from clause", self._scope.flavour)
            conditions.append(compare("=", left.value, right.value))
            (left if side == "RIGHT" else right).hidden = True
        return all_of(conditions).sql

    def _table(self, node) -> str:
        """SQL of one table, query or parenthesis."""
        if isinstance(node, exp.Subquery):
            if isinstance(node.this, exp.Query):
                return self._derived(node)
            return self._parenthesis(node)
        if isinstance(node, exp.Paren):
            return self._parenthesis(node)
        if isinstance(node, exp.Table):
            sql = self._named(node)
            return self._joins(sql, node.args.get("joins") or ())
        raise MySQLError(1064, "You have an error in your SQL syntax near FROM")

    def _parenthesis(self, node) -> str:
        sql = self._table(node.this)
        return self._joins(sql, node.args.get("joins") or ())

    def _named(self, node: exp.Table) -> str:
        queries, database = self._queries, node.db
        name = node.name
        catalog = queries.catalog
        alias = node.alias or name
        if not database and name in self._common:
            own, columns = self._common[name]
            return self._add(own, alias, columns, "")
        if database.lower() == "information_schema":
            found = information_table(catalog, name, queries.flavour)
            return self._add(f"({found.sql})", alias, found.columns, "")
        if database and database != catalog.database:
            raise foreign(database, name)
        if catalog.dropped:
            raise MySQLError(1046, "No database selected")
        if name in catalog.views:
            return self._view(name, alias)
        if name not in catalog.tables:
            raise no_such_table(catalog.database, name)
        if name == queries.forbidden and not queries.inside_derived:
            raise MySQLError(
                1093,
                f"You can't specify target table '{alias}' for update in FROM clause",
            )
        table = catalog.tables[name]
        columns = [Column(c.name, Value(c.id, c.type)) for c in table.columns]
        return self._add(table.id, alias, columns, "rowid", table=name)

    def _view(self, name: str, alias: str) -> str:
        queries = self._queries
        if name in queries.views:
            raise MySQLError(1462, f"`{name}` contains view recursion")
        view = queries.catalog.views[name]
        queries.views.append(name)
        query = queries.query(parse_query(view.query))
        queries.views.pop()
        columns = query.columns
        if view.columns:
            columns = [
                Column(n, c.value) for n, c in zip(view.columns, columns, strict=False)
            ]
        return self._add(f"({query.sql})", alias, columns, "")

    def _derived(self, node: exp.Subquery) -> str:
        alias = node.args.get("alias")
        if alias is None or not alias.name:
            raise MySQLError(1248, "Every derived table must have its own alias")
        queries = self._queries
        inside, queries.inside_derived = queries.inside_derived, True
        query = queries.query(node.this, self._scope.parent, self._common)
        queries.inside_derived = inside
        columns = query.columns
        if names := [c.name for c in alias.args.get("columns") or ()]:
            if len(names) != len(columns):
                raise MySQLError(
                    1353,
                    "View's SELECT and view's field list have different column counts",
                )
            columns = [Column(n, c.value) for n, c in zip(names, columns, strict=True)]
        _check_names(columns)
        sql = self._add(f"({query.sql})", alias.name, columns, "")
        return self._joins(sql, node.args.get("joins") or ())

    def _add(self, sql: str, alias: str, columns, row: str, table: str = "") -> str:
        """Puts a table into the scope; SQL of it with its alias for SQLite."""
        if any(source.alias == alias for source in self._scope.sources):
            raise MySQLError(1066, f"Not unique table/alias: '{alias}'")
        own = self._queries.new_name()
        named = [
            Column(c.name, Value(f"{own}.{c.value.sql}", c.value.type)) for c in columns
        ]
        self._scope.sources.append(
            Source(
                alias,
                named,
                row=f"{own}.{row}" if row else "",
                database=self._queries.catalog.database if table else "",
                table=table,
            )
        )
        return f"{sql} AS {own}"


def _check_names(columns) -> None:
    seen = set()
    for column in columns:
        if column.name.lower() in seen:
            raise MySQLError(1060, f"Duplicate column name '{column.name}'")
        seen.add(column.name.lower())


def _first(sources: list[Source], name: str) -> Column | None:
    for source in sources:
        column = source.find(name)
        if column is not None and not column.hidden:
            return column
    return None


def _one(sql: str) -> str:
    """`sql` so that it can stand on one side of a join."""
    return f"({sql})" if " JOIN " in sql else sql
