"""Compiling UNION, WITH, and ORDER BY around whole queries."""

import dataclasses

from sqlglot import exp

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_scope import Column
from cycleqd_jax.tasks.dbbench.sqlite_types import Kind, Value, collated, convert, merge


@dataclasses.dataclass
class Query:
    """A compiled query.

    Attributes:
      sql: for SQLite, without a semicolon.
      columns: what it gives; each value reads the column from inside the query.
      single: whether it cannot give more than one row.
    """

    sql: str
    columns: list[Column]
    single: bool = False


class Unions:
    """What `Queries` needs for queries made of queries."""

    def _set_operation(self, node, parent, common) -> Query:
        left = self.query(node.this, parent, common)
        right = self.query(node.expression, parent, common)
        if len(left.columns) != len(right.columns):
            raise _different_widths()
        types = [
            merge([a.value.type, b.value.type])
            for a, b in zip(left.columns, right.columns, strict=True)
        ]
        sides = [_as_types(query, types) for query in (left, right)]
        word = {exp.Union: "UNION", exp.Except: "EXCEPT", exp.Intersect: "INTERSECT"}
        operator = word[type(node)]
        if not node.args.get("distinct"):
            if operator != "UNION":
                raise MySQLError(
                    1235, f"This version of MySQL doesn't yet support '{operator} ALL'"
                )
            operator += " ALL"
        columns = [
            Column(column.name, Value(column.value.sql, kind))
            for column, kind in zip(left.columns, types, strict=True)
        ]
        sql = f" {operator} ".join(sides)
        if operator == "UNION":
            # SQLite's own would come sorted; MySQL keeps the order of what came first.
            outputs = [Column(c.name, c.value) for c in columns]
            both = Query(" UNION ALL ".join(sides), outputs)
            sql = _as_types(both, types).replace("SELECT ", "SELECT DISTINCT ", 1)
        found = Query(sql, columns)
        if node.args.get("order") is None and node.args.get("limit") is None:
            return found
        return self._outer_order(node, found, parent, common)

    def _outer_order(self, node, inner: Query, parent, common) -> Query:
        """ORDER BY and LIMIT behind a union or a query in parentheses."""
        scope = self.scope(parent)
        name = self.new_name()
        scope.clause, scope.use_aliases, scope.prefer_aliases = (
            "order clause",
            True,
            True,
        )
        for column in inner.columns:
            value = Value(f"{name}.{column.value.sql}", column.value.type)
            scope.aliases[column.name.lower()] = value
        expressions = self.expressions(scope, common)
        order = []
        if (clause := node.args.get("order")) is not None:
            for term in clause.expressions:
                key, down = term.this, " DESC" if term.args.get("desc") else ""
                if isinstance(key, exp.Literal) and not key.is_string:
                    number = int(key.this)
                    if not 1 <= number <= len(inner.columns):
                        raise MySQLError(
                            1054, f"Unknown column '{number}' in 'order clause'"
                        )
                    column = inner.columns[number - 1]
                    value = Value(f"{name}.{column.value.sql}", column.value.type)
                else:
                    value = expressions.value(key)
                order.append(collated(value) + down)
        sql = f"SELECT * FROM ({inner.sql}) AS {name}"
        if order:
            sql += f" ORDER BY {', '.join(order)}"
        return Query(f"{sql} {limit_of(node)}".strip(), inner.columns)

    # ---- WITH

    def _common_tables(self, tables: exp.With, parent, common: dict) -> str:
        recursive = bool(tables.args.get("recursive"))
        parts = []
        for table in tables.expressions:
            names = [c.name for c in table.args["alias"].args.get("columns") or ()]
            own = self.new_name()
            body = table.this
            if recursive and isinstance(body, exp.Union):
                query = self._recursive(body, parent, common, table.alias, own, names)
            else:
                query = self.query(body, parent, common)
            columns = _renamed(query.columns, names)
            common[table.alias] = (own, columns)
            listed = ", ".join(f"k{n}" for n in range(1, len(columns) + 1))
            parts.append(f"{own}({listed}) AS ({query.sql})")
        return f"WITH {'RECURSIVE ' if recursive else ''}{', '.join(parts)}"

    def _recursive(self, body, parent, common, alias, own, names) -> Query:
        """A union whose second part may read the table that it makes.

        SQLite wants that part to read it directly, so nothing is put around the parts;
        as with MySQL the first decides about the types.
        """
        first = self.query(body.this, parent, common)
        common[alias] = (own, _renamed(first.columns, names))
        second = self.query(body.expression, parent, common)
        if len(first.columns) != len(second.columns):
            raise _different_widths()
        word = "UNION" if body.args.get("distinct") else "UNION ALL"
        return Query(f"{first.sql} {word} {second.sql}", first.columns)


def _different_widths() -> MySQLError:
    return MySQLError(
        1222, "The used SELECT statements have a different number of columns"
    )


def _renamed(columns: list[Column], names: list[str]) -> list[Column]:
    if not names:
        return columns
    if len(names) != len(columns):
        raise MySQLError(
            1353,
            "In definition of view, derived table or common table expression, SELECT "
            "list and column names list have different column counts",
        )
    return [Column(n, c.value) for n, c in zip(names, columns, strict=True)]


def _as_types(query: Query, types: list) -> str:
    listed = []
    for number, (column, kind) in enumerate(zip(query.columns, types, strict=True), 1):
        value = Value(f"q.k{number}", column.value.type)
        sql = convert(value, kind)
        if kind.kind is not Kind.TIME:
            sql = collated(Value(sql, kind))
        listed.append(f"{sql} AS k{number}")
    return f"SELECT {', '.join(listed)} FROM ({query.sql}) AS q"


def limit_of(node) -> str:
    """SQL of LIMIT and OFFSET of a query, or ""."""
    limit, offset = node.args.get("limit"), node.args.get("offset")
    if limit is None:
        return ""
    count = min(int(limit.expression.this), 2**62)
    sql = f"LIMIT {count}"
    if offset is not None:
        sql += f" OFFSET {min(int(offset.expression.this), 2**62)}"
    return sql
