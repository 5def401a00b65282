"""Arithmetic and comparisons of MySQL's types as SQL for SQLite."""

from cycleqd_jax.tasks.dbbench.sqlite_types import (
    APPROXIMATE,
    DOUBLE,
    INT,
    TEMPORAL,
    TEXTUAL,
    Kind,
    Type,
    Value,
    collated,
    decimal,
    to_bool,
    to_datetime,
    to_decimal,
    to_double,
    to_integer,
    to_number,
    to_text,
)

_NAMES = {"+": "m_add", "-": "m_subtract", "*": "m_multiply"}
_DIVISION_DIGITS = 4  # div_precision_increment


def arithmetic(operator: str, left: Value, right: Value) -> Value:
    """`left` + - * / DIV % `right`."""
    left, right = to_number(left), to_number(right)
    kinds = {left.type.kind, right.type.kind}
    if operator == "DIV":
        return Value(f"m_integer_divide({to_decimal(left)}, {to_decimal(right)})", INT)
    if kinds & APPROXIMATE:
        return _of_doubles(operator, left, right)
    if operator == "/":
        scale = left.type.scale + _DIVISION_DIGITS
        sql = f"m_divide({to_decimal(left)}, {to_decimal(right)})"
        return Value(sql, decimal(scale))
    if kinds <= {Kind.INT, Kind.NULL}:
        if operator == "%":
            return Value(f"({left.sql} % {right.sql})", INT)
        return Value(f"m_int{_NAMES[operator][1:]}({left.sql}, {right.sql})", INT)
    scales = left.type.scale, right.type.scale
    scale = sum(scales) if operator == "*" else max(scales)
    name = "m_modulo" if operator == "%" else _NAMES[operator]
    return Value(f"{name}({to_decimal(left)}, {to_decimal(right)})", decimal(scale))


def _of_doubles(operator: str, left: Value, right: Value) -> Value:
    first, second = to_double(left), to_double(right)
    if operator == "%":
        return Value(f"m_remainder({first}, {second})", DOUBLE)
    if operator == "/":
        return Value(f"m_divide_double({first}, {second})", DOUBLE)
    return Value(f"({first} {operator} {second})", DOUBLE)


def negative(value: Value) -> Value:
    """The value with the other sign."""
    number = to_number(value)
    constant = None
    if isinstance(value.constant, int):
        constant = -value.constant
    if number.type.kind is Kind.DECIMAL:
        return Value(f"m_subtract('0', {number.sql})", number.type, constant)
    return Value(f"(- {number.sql})", number.type, constant)


def bitwise(operator: str, left: Value, right: Value) -> Value:
    """`left` & | ^ << >> `right`, as unsigned 64-bit integers."""
    first, second = to_integer(to_number(left)), to_integer(to_number(right))
    return Value(f"m_bits('{operator}', {first}, {second})", INT)


def comparable(left: Value, right: Value) -> tuple[str, str]:
    """SQL of both sides so that SQLite's comparison of them is MySQL's."""
    a, b = left.type, right.type
    if Kind.NULL in (a.kind, b.kind):
        return collated(left), collated(right)
    if a.kind in TEXTUAL and b.kind in TEXTUAL:
        if Kind.BINARY in (a.kind, b.kind):
            return _bytes(left), _bytes(right)
        exact = a.exact or b.exact
        return collated(Value(left.sql, Type(Kind.TEXT, exact=exact))), right.sql
    if a.kind in TEMPORAL or b.kind in TEMPORAL:
        return _temporal(left, right)
    if a.kind is Kind.INT and b.kind is Kind.INT:
        return left.sql, right.sql
    if a.kind in (Kind.INT, Kind.DECIMAL) and b.kind in (Kind.INT, Kind.DECIMAL):
        first, second = _same_scale(left), _same_scale(right)
        return f"({first} COLLATE m_decimal)", second
    return _compared(left, right), _compared(right, left)


def _compared(value: Value, other: Value) -> str:
    """As `to_double`; beside an integer an error has other words."""
    if value.type.kind is Kind.TEXT and other.type.kind is Kind.INT:
        return f"m_number_compared({value.sql})"
    return to_double(value)


def _same_scale(value: Value) -> str:
    return to_decimal(value)


def _bytes(value: Value) -> str:
    if value.type.kind is Kind.BINARY:
        return value.sql
    return f"m_encode({to_text(value)})"


def _temporal(left: Value, right: Value) -> tuple[str, str]:
    kinds = {left.type.kind, right.type.kind}
    if kinds == {Kind.TIME}:
        return collated(left), collated(right)
    if len(kinds) == 1:
        return left.sql, right.sql
    if kinds & {Kind.INT, Kind.DECIMAL, Kind.DOUBLE, Kind.FLOAT}:
        return to_double(left), to_double(right)
    if Kind.TIME in kinds and kinds & TEXTUAL:
        return tuple(f"m_time_seconds(m_time({v.sql}))" for v in (left, right))
    return to_datetime(left), to_datetime(right)


def compare(operator: str, left: Value, right: Value) -> Value:
    """`left` = <> < <= > >= <=> `right`."""
    first, second = comparable(left, right)
    operator = "IS" if operator == "<=>" else operator
    return Value(f"({first} {operator} {second})", INT)


def between(value: Value, low: Value, high: Value) -> Value:
    """`value` BETWEEN `low` AND `high`: all three compared in one way."""
    kinds = {v.type.kind for v in (value, low, high)} - {Kind.NULL}
    if kinds & TEXTUAL and kinds - TEXTUAL and not kinds & TEMPORAL:
        value, low, high = (Value(to_double(v), DOUBLE) for v in (value, low, high))
    above, below = compare(">=", value, low), compare("<=", value, high)
    return Value(f"({above.sql} AND {below.sql})", INT)


def is_in(value: Value, choices: list[Value]) -> Value:
    """`value` IN (...)."""
    if all(comparable(value, c)[1] == c.sql for c in choices):
        first = {comparable(value, c)[0] for c in choices}
        if len(first) == 1:
            listed = ", ".join(c.sql for c in choices)
            return Value(f"({first.pop()} IN ({listed}))", INT)
    return any_of([compare("=", value, c) for c in choices])


def any_of(conditions: list[Value]) -> Value:
    """Whether one of the conditions holds."""
    return _joined("OR", conditions)


def all_of(conditions: list[Value]) -> Value:
    """Whether all of the conditions hold."""
    return _joined("AND", conditions)


def _joined(word: str, conditions: list[Value]) -> Value:
    # A balanced tree: SQLite limits the depth of an expression.
    parts = [to_bool(c) for c in conditions]
    while len(parts) > 1:
        parts = [
            f"({f' {word} '.join(parts[i : i + 2])})"
            if i + 1 < len(parts)
            else parts[i]
            for i in range(0, len(parts), 2)
        ]
    return Value(f"({parts[0]})", INT)


def like(value: Value, pattern: Value, escape: str) -> Value:
    """`value` LIKE `pattern`."""
    exact = int(value.type.exact or pattern.type.exact)
    exact = exact or int(Kind.BINARY in (value.type.kind, pattern.type.kind))
    quoted = escape.replace("'", "''")
    sql = f"m_like({to_text(value)}, {to_text(pattern)}, '{quoted}', {exact})"
    return Value(sql, INT)
