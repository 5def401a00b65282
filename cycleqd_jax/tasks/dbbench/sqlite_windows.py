"""Window functions of MySQL as SQL for SQLite."""

from sqlglot import exp

from cycleqd_jax.tasks.dbbench.sqlite_aggregates import AGGREGATES, aggregate_of
from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError, unsupported
from cycleqd_jax.tasks.dbbench.sqlite_types import (
    DOUBLE,
    INT,
    Value,
    collated,
    convert,
    merge,
)

_RANKS = {
    "ROW_NUMBER": INT,
    "RANK": INT,
    "DENSE_RANK": INT,
    "NTILE": INT,
    "CUME_DIST": DOUBLE,
    "PERCENT_RANK": DOUBLE,
}
_SIDES = {"PRECEDING", "FOLLOWING"}
_PLAIN = {"SUM", "AVG", "COUNT", "MIN", "MAX"}


def window(expressions, node: exp.Window) -> Value:
    """A call with OVER.

    Args:
      expressions: what compiles the parts.
      node: its tree.

    Raises:
      MySQLError: it may not stand here (3593), or the function has no window form.
    """
    scope = expressions.scope
    if not scope.allow_aggregates or scope.inside_aggregate:
        raise MySQLError(3593, "You cannot use the window function in this context.")
    function = node.this
    if not isinstance(function, exp.Anonymous):
        raise unsupported(type(function).__name__)
    name = function.name.removeprefix("F_").upper()
    over = _over(expressions, node)
    values = [expressions.value(argument) for argument in function.expressions]
    if name in _RANKS:
        arguments = ", ".join(value.sql for value in values)
        return Value(f"({name}({arguments}) OVER {over})", _RANKS[name])
    if name in ("LAG", "LEAD"):
        return _neighbour(name, values, over)
    if name in ("FIRST_VALUE", "LAST_VALUE", "NTH_VALUE"):
        arguments = ", ".join(value.sql for value in values)
        return Value(f"({name}({arguments}) OVER {over})", values[0].type)
    if name in AGGREGATES and name in _PLAIN:
        found = aggregate_of(name, values)
        return Value(f"({found.sql} OVER {over})", found.type)
    raise unsupported(f"{name} OVER")


def _neighbour(name: str, values: list[Value], over: str) -> Value:
    value, *rest = values
    kind = value.type
    arguments = [value.sql, *(part.sql for part in rest)]
    if len(rest) == 2:
        kind = merge([value.type, rest[1].type])
        arguments = [convert(value, kind), rest[0].sql, convert(rest[1], kind)]
    return Value(f"({name}({', '.join(arguments)}) OVER {over})", kind)


def _over(expressions, node: exp.Window) -> str:
    named = node.args.get("alias")
    if named is not None and not node.args.get("partition_by"):
        definition = expressions.windows.get(named.name.lower())
        if definition is None:
            raise MySQLError(3579, f"Window name '{named.name}' is not defined.")
        node = definition
    parts = []
    if partition := node.args.get("partition_by"):
        keys = (collated(expressions.value(key)) for key in partition)
        parts.append("PARTITION BY " + ", ".join(keys))
    if order := node.args.get("order"):
        parts.append("ORDER BY " + ", ".join(_terms(expressions, order)))
    if spec := node.args.get("spec"):
        parts.append(_frame(expressions, spec))
    return f"({' '.join(parts)})"


def _terms(expressions, order: exp.Order) -> list[str]:
    return [
        collated(expressions.value(term.this)) + (" DESC" if term.args["desc"] else "")
        for term in order.expressions
    ]


def _frame(expressions, spec: exp.WindowSpec) -> str:
    def bound(where: str) -> str:
        point, side = spec.args.get(where), spec.args.get(f"{where}_side") or ""
        if point is None or point == "CURRENT ROW":
            return "CURRENT ROW"
        if isinstance(point, exp.Expression):
            point = expressions.value(point).sql
        return f"{point} {side if side in _SIDES else ''}"

    kind = "RANGE" if spec.args.get("kind") == "RANGE" else "ROWS"
    if spec.args.get("end") is None:
        return f"{kind} {bound('start')}"
    return f"{kind} BETWEEN {bound('start')} AND {bound('end')}"
