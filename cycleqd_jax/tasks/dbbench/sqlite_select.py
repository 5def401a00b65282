"""Compiling a query to SQL for SQLite.

Every compiled query names its columns k1, k2, ... and its tables s1, s2, ...
"""

import re

from sqlglot import exp

from cycleqd_jax.tasks.dbbench.sqlite_aggregates import AGGREGATES
from cycleqd_jax.tasks.dbbench.sqlite_catalog import Catalog
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError, unsupported
from cycleqd_jax.tasks.dbbench.sqlite_expressions import Expressions
from cycleqd_jax.tasks.dbbench.sqlite_grouping import check_grouping, constants
from cycleqd_jax.tasks.dbbench.sqlite_scope import Column, Scope
from cycleqd_jax.tasks.dbbench.sqlite_sources import Sources
from cycleqd_jax.tasks.dbbench.sqlite_types import Value, collated, convert
from cycleqd_jax.tasks.dbbench.sqlite_unions import Query, Unions, limit_of

# Aggregates for which MariaDB sorts the rows by their groups.
_SORTING = ("(DISTINCT ", "m_group_concat(", "m_json_arrayagg(")


_FIRST = re.compile(r"m_first\(([\w.]+)\)")  # how a grouped column is shown


class Queries(Unions):
    """Compiles queries against a catalog.

    Args:
      catalog: what tables there are.
      flavour: whose rules hold.
      forbidden: a table that may not be read (1093), or "".
    """

    def __init__(self, catalog: Catalog, flavour: Flavour, forbidden: str = ""):
        self.catalog = catalog
        self.flavour = flavour
        self.forbidden = forbidden
        self._made = 0
        self.views: list[str] = []  # being expanded
        self.inside_derived = False

    def new_name(self) -> str:
        """An alias for SQLite."""
        self._made += 1
        return f"s{self._made}"

    def scope(self, parent: Scope | None = None) -> Scope:
        """An empty scope inside `parent`."""
        return Scope(self.flavour, self.catalog.database, parent)

    def expressions(self, scope: Scope, common: dict) -> Expressions:
        """What compiles expressions in `scope`, where these WITH tables are known."""
        return Expressions(scope, lambda node, outer: self.query(node, outer, common))

    def query(self, node, parent: Scope | None = None, common: dict | None = None):
        """Compiles a tree.

        Args:
          node: a SELECT, a UNION, or one of them in parentheses.
          parent: scope of the query around it.
          common: WITH tables, name -> (name in SQLite, columns).

        Returns:
          A `Query`.

        Raises:
          MySQLError: as a server would refuse it.
        """
        common = dict(common or {})
        prefix = ""
        if (tables := node.args.get("with_")) is not None:
            prefix = self._common_tables(tables, parent, common)
        if isinstance(node, exp.Subquery):
            found = self._parenthesised(node, parent, common)
        elif isinstance(node, exp.SetOperation):
            found = self._set_operation(node, parent, common)
        elif isinstance(node, exp.Select):
            found = self._select(node, parent, common)
        else:
            raise MySQLError(1064, "You have an error in your SQL syntax")
        if prefix:
            found = Query(f"{prefix} {found.sql}", found.columns, found.single)
        return found

    def _parenthesised(self, node, parent, common) -> Query:
        inner = self.query(node.this, parent, common)
        if node.args.get("limit") is None and node.args.get("order") is None:
            return inner
        return self._outer_order(node, inner, parent, common)

    # ---- SELECT

    def _select(self, node: exp.Select, parent, common) -> Query:
        scope = self.scope(parent)
        expressions = self.expressions(scope, common)
        expressions.windows = {
            window.name.lower(): window for window in node.args.get("windows") or ()
        }
        sources = Sources(self, scope, expressions, common)
        tables = sources.compile(node)
        scope.constants = constants(node, scope)
        try:
            where = self._where(node, scope, expressions)
            scope.grouped, keys = self._group_keys(node, scope, expressions)
        except MySQLError:
            # A server looks at the select list first, and tells what is wrong there.
            scope.clause, scope.allow_aggregates = "field list", True
            self._projections(node, scope, expressions)
            raise
        outputs = self._projections(node, scope, expressions)
        having, order = self._having_and_order(node, scope, expressions, outputs)
        if scope.bare and (scope.grouped or scope.aggregated):
            if self.flavour is Flavour.MYSQL8:
                check_grouping(scope)
            scope.first, scope.bare = True, []
            scope.grouped = scope.grouped or frozenset({""})
            outputs = self._projections(node, scope, expressions)
            having, order = self._having_and_order(node, scope, expressions, outputs)
        parts = tables, where, keys, having, order
        return self._assembled(node, scope, outputs, *parts)

    def _assembled(
        self, node, scope, outputs, tables, where, keys, having, order
    ) -> Query:
        distinct = node.args.get("distinct") is not None
        grouped = node.args.get("group") is not None
        conditions = [where] if where else []
        if having and not grouped and not scope.aggregated:
            conditions.append(having)
            having = ""
        columns = []
        listed = []
        for number, (name, value) in enumerate(outputs, 1):
            sql = convert(value, value.type)
            if distinct:
                sql = collated(Value(sql, value.type))
            listed.append(f"{sql} AS k{number}")
            columns.append(Column(name, Value(f"k{number}", value.type)))
        parts = [f"SELECT {'DISTINCT ' if distinct else ''}{', '.join(listed)}"]
        if tables:
            parts.append(f"FROM {tables}")
        if conditions:
            parts.append(f"WHERE {' AND '.join(conditions)}")
        if grouped:
            parts.append("GROUP BY " + ", ".join(keys))
        if having:
            parts.append(f"HAVING {having}")
        if grouped and not distinct:
            said = " ".join([*listed, having, *order])
            sorts = any(mark in said for mark in _SORTING)
            order = order + self._group_order(scope, keys, order, sorts)
        if order and distinct and not grouped and self.flavour is Flavour.MARIADB:
            shown = [collated(value) for _, value in outputs]
            if {term.removesuffix(" DESC") for term in order} <= set(shown):
                order = order + shown  # what is distinct is sorted as a whole
        if order:
            parts.append("ORDER BY " + ", ".join(order))
        limit = limit_of(node)
        if limit:
            parts.append(limit)
        single = (scope.aggregated and not grouped) or limit.startswith("LIMIT 1 ")
        return Query(" ".join(parts), columns, single or limit == "LIMIT 1")

    def _group_order(self, scope, keys, order: list[str], sorts: bool) -> list[str]:
        """What orders groups that ORDER BY leaves equal.

        MySQL 8 gives them in the order of their first rows. So does MariaDB if it has
        to order groups by something else, unless an aggregate needs them sorted.
        """
        plain = [_FIRST.sub(r"\1", term.removesuffix(" DESC")) for term in order]
        begins = plain == keys[: len(plain)]
        if self.flavour is Flavour.MARIADB and (sorts or begins):
            return keys[len(plain) :] if begins else keys
        rows = [source.row for source in scope.sources]
        return [f"MIN({row})" for row in rows] if all(rows) else []

    def _where(self, node, scope: Scope, expressions: Expressions) -> str:
        where = node.args.get("where")
        if where is None:
            return ""
        scope.clause, scope.allow_aggregates = "where clause", False
        sql = expressions.condition(where.this)
        scope.clause, scope.allow_aggregates = "field list", True
        scope.bare.clear()
        return sql

    def _group_keys(self, node, scope, expressions):
        """(SQL of the expressions or None, the same as GROUP BY has them)."""
        group = node.args.get("group")
        if group is None:
            return None, []
        if group.args.get("rollup"):
            raise MySQLError(1235, "This version of MySQL doesn't yet support 'ROLLUP'")
        scope.clause, scope.allow_aggregates = "group statement", False
        found, order = set(), []
        for term in group.expressions:
            target = self._target(term, node, scope)
            value = expressions.value(target)
            found.add(value.sql)
            order.append(collated(value) if value.constant is None else "NULL")
        scope.clause, scope.allow_aggregates = "field list", True
        scope.bare.clear()
        return frozenset(found), order

    def _target(self, term, node, scope):
        """What a term of GROUP BY stands for: a position, an alias, or itself."""
        if isinstance(term, exp.Literal) and not term.is_string:
            return _at_position(node, term, "group statement")
        if isinstance(term, exp.Column) and not term.table:
            try:
                scope.resolve(term.name)
            except MySQLError as error:
                if error.code != 1054:
                    raise
                for projection in node.expressions:
                    if projection.alias.lower() == term.name.lower():
                        if _has_aggregate(projection):
                            raise MySQLError(
                                1056, f"Can't group on '{term.name}'"
                            ) from None
                        return projection.this
                raise
        return term

    def _projections(self, node, scope, expressions) -> list[tuple[str, Value]]:
        outputs = []
        scope.aliases = {}
        for projection in node.expressions:
            before = len(scope.bare)
            star = _star(projection)
            if star is not None:
                outputs += _expanded(scope, star)
            elif isinstance(projection, exp.Alias):
                value = expressions.value(projection.this)
                scope.aliases[projection.alias.lower()] = value
                outputs.append((projection.alias, value))
            else:
                value = expressions.value(projection)
                outputs.append((projection.name, value))
            scope.bare[before:] = [
                bare if isinstance(bare, tuple) else (len(outputs), bare)
                for bare in scope.bare[before:]
            ]
        return outputs

    def _having_and_order(
        self, node, scope, expressions, outputs
    ) -> tuple[str, list[str]]:
        scope.use_aliases = True
        having = ""
        if (clause := node.args.get("having")) is not None:
            scope.clause = "having clause"
            scope.prefer_aliases = True
            having = expressions.condition(clause.this)
        order = []
        if (clause := node.args.get("order")) is not None:
            scope.clause, scope.prefer_aliases = "order clause", True
            for term in clause.expressions:
                order.append(_order_term(term, expressions, outputs))
        scope.use_aliases, scope.clause = False, "field list"
        return having, order


def _order_term(term, expressions, outputs) -> str:
    key = term.this
    down = " DESC" if term.args.get("desc") else ""
    if isinstance(key, exp.Literal) and key.this.isdecimal() and not key.is_string:
        number = int(key.this)
        if not 1 <= number <= len(outputs):
            raise MySQLError(1054, f"Unknown column '{number}' in 'order clause'")
        value = outputs[number - 1][1]
    else:
        value = expressions.value(key)
    if value.constant is not None:
        return "NULL"
    return collated(value) + down


def _at_position(node, literal: exp.Literal, clause: str):
    """The expression of the select list at a position."""
    if not literal.this.isdecimal():
        return literal
    number = int(literal.this)
    projections = node.expressions
    if any(_star(p) is not None for p in projections):
        raise unsupported("positions behind *")
    if not 1 <= number <= len(projections):
        raise MySQLError(1054, f"Unknown column '{number}' in '{clause}'")
    projection = projections[number - 1]
    if _has_aggregate(projection) and clause == "group statement":
        raise MySQLError(1056, f"Can't group on '{projection.alias_or_name}'")
    return projection.this if isinstance(projection, exp.Alias) else projection


def _has_aggregate(node: exp.Expression) -> bool:
    return any(
        call.name.removeprefix("F_") in AGGREGATES
        for call in node.find_all(exp.Anonymous)
    )


def _star(projection) -> str | None:
    """The table before a `*` ("" for none), or None if this is no star."""
    if isinstance(projection, exp.Star):
        return ""
    if isinstance(projection, exp.Column) and isinstance(projection.this, exp.Star):
        return projection.table
    return None


def _expanded(scope: Scope, table: str) -> list[tuple[str, Value]]:
    """The columns that a star stands for."""
    sources = [s for s in scope.sources if not table or s.alias == table]
    if not sources:
        if table:
            raise MySQLError(1051, f"Unknown table '{table}'")
        raise MySQLError(1096, "No tables used")
    found = []
    for source in sources:
        for column in source.columns:
            if not (column.hidden and not table):
                found.append((column.name, scope._used(source, column)))
    return found
