"""Aggregates of MySQL as SQL for SQLite."""

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_types import (
    APPROXIMATE,
    DOUBLE,
    INT,
    JSON,
    TEXT,
    Kind,
    Value,
    collated,
    decimal,
    to_double,
    to_integer,
    to_number,
    to_text,
)

_DIVISION_DIGITS = 4
_DEVIATIONS = {
    "STD": "m_std",
    "STDDEV": "m_std",
    "STDDEV_POP": "m_std",
    "STDDEV_SAMP": "m_std_sample",
    "VARIANCE": "m_variance",
    "VAR_POP": "m_variance",
    "VAR_SAMP": "m_variance_sample",
}
_BITS = {"BIT_AND": "m_bit_and", "BIT_OR": "m_bit_or", "BIT_XOR": "m_bit_xor"}
AGGREGATES = frozenset(
    """
COUNT COUNT_DISTINCT SUM SUM_DISTINCT AVG AVG_DISTINCT MIN MIN_DISTINCT MAX
MAX_DISTINCT GROUP_CONCAT JSON_ARRAYAGG JSON_OBJECTAGG ANY_VALUE
""".split()
) | {*_DEVIATIONS, *_BITS}


def aggregate(expressions, name: str, nodes: list) -> Value:
    """A call of an aggregate.

    Args:
      expressions: what compiles the arguments.
      name: in capitals.
      nodes: the arguments' trees.

    Raises:
      MySQLError: it may not stand here (1111), or has wrong arguments.
    """
    scope = expressions.scope
    if not scope.allow_aggregates or scope.inside_aggregate:
        raise MySQLError(1111, "Invalid use of group function")
    if name == "ANY_VALUE":
        scope.inside_aggregate = True
        value = expressions.value(nodes[0])
        scope.inside_aggregate = False
        if not scope.aggregated and scope.grouped is None:
            return value
        return Value(f"m_first({value.sql})", value.type)
    scope.aggregated = True
    scope.inside_aggregate = True
    try:
        values = [expressions.value(node) for node in nodes]
    finally:
        scope.inside_aggregate = False
    return aggregate_of(name, values)


def aggregate_of(name: str, values: list[Value]) -> Value:
    """The aggregate over compiled arguments.

    Raises:
      MySQLError: too many or too few of them.
    """
    mark = "DISTINCT " if name.endswith("_DISTINCT") else ""
    name = name.removesuffix("_DISTINCT")
    if name == "GROUP_CONCAT":
        return _concatenated(values)
    if name == "COUNT" and mark and len(values) > 1:
        keys = ", ".join(_key(value) for value in values)
        return Value(f"COUNT(DISTINCT m_keys({keys}))", INT)
    needed = 2 if name == "JSON_OBJECTAGG" else 1
    if len(values) != needed:
        raise MySQLError(
            1582, f"Incorrect parameter count in the call to native function '{name}'"
        )
    value = values[0]
    if name == "COUNT":
        return Value(f"COUNT({mark}{collated(value)})", INT)
    if name in ("MIN", "MAX"):
        if value.type.kind is Kind.TIME:
            return Value(f"m_{name.lower()}_time({value.sql})", value.type)
        return Value(f"{name}({collated(value)})", value.type)
    if name == "SUM":
        return _sum(value, mark)
    if name == "AVG":
        return _average(value, mark)
    if name in _DEVIATIONS:
        return Value(f"{_DEVIATIONS[name]}({to_double(value)})", DOUBLE)
    if name in _BITS:
        return Value(f"{_BITS[name]}({to_integer(to_number(value))})", INT)
    names = ", ".join(f"{v.sql}, {int(v.type.kind)}" for v in values)
    return Value(f"m_{name.lower()}({names})", JSON)


def _sum(value: Value, mark: str) -> Value:
    number = to_number(value)
    if number.type.kind in APPROXIMATE:
        return Value(f"m_sum_double({mark}{to_double(number)})", DOUBLE)
    return Value(f"m_sum({mark}{_distinct(number)})", decimal(number.type.scale))


def _average(value: Value, mark: str) -> Value:
    number = to_number(value)
    if number.type.kind in APPROXIMATE:
        return Value(f"m_avg_double({mark}{to_double(number)})", DOUBLE)
    scale = number.type.scale
    return Value(f"m_avg({mark}{_distinct(number)})", decimal(scale + _DIVISION_DIGITS))


def _distinct(number: Value) -> str:
    return collated(number)


def _key(value: Value) -> str:
    """SQL of what is equal for equal values, and ordered like them."""
    if value.type.kind is Kind.TEXT and not value.type.exact:
        return f"m_sort_key({value.sql})"
    if value.type.kind is Kind.DECIMAL:
        return to_double(value)
    return value.sql


def _concatenated(values: list[Value]) -> Value:
    """GROUP_CONCAT: distinct, separator, number of keys, (down, key) ..., values."""
    distinct, separator, keys = (value.constant for value in values[:3])
    order = values[3 : 3 + 2 * keys]
    rest = values[3 + 2 * keys :]
    text = rest[0] if len(rest) == 1 else None
    sql = to_text(text) if text is not None else _joined(rest)
    plain = ", ".join(
        [f"{order[i].sql}, {_key(order[i + 1])}" for i in range(0, len(order), 2)]
    )
    same = f"m_sort_key({sql})" if distinct else "NULL"
    quoted = str(separator).replace("'", "''")
    arguments = ", ".join(filter(None, [f"'{quoted}'", sql, same, plain]))
    return Value(f"m_group_concat({arguments})", TEXT)


def _joined(values: list[Value]) -> str:
    return "(" + " || ".join(to_text(value) for value in values) + ")"
