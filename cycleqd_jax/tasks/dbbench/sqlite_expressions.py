"""Compiling the tree of an expression to SQL for SQLite."""

import re
from collections.abc import Callable

from sqlglot import exp

from cycleqd_jax.tasks.dbbench import sqlite_operators as operators
from cycleqd_jax.tasks.dbbench.sqlite_aggregates import AGGREGATES, aggregate
from cycleqd_jax.tasks.dbbench.sqlite_calls import (
    call,
    interval_sum,
    is_known,
    unknown_function,
)
from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError, unsupported
from cycleqd_jax.tasks.dbbench.sqlite_scope import Scope
from cycleqd_jax.tasks.dbbench.sqlite_types import (
    INT,
    NULL_VALUE,
    TEXT,
    Kind,
    Type,
    Value,
    convert,
    decimal,
    merge,
    to_bool,
    to_text,
)
from cycleqd_jax.tasks.dbbench.sqlite_windows import window

_LARGEST = 2**63 - 1
_ARITHMETIC = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.IntDiv: "DIV",
    exp.Mod: "%",
}
_BITWISE = {
    exp.BitwiseAnd: "&",
    exp.BitwiseOr: "|",
    exp.BitwiseXor: "^",
    exp.BitwiseLeftShift: "<<",
    exp.BitwiseRightShift: ">>",
}
_COMPARISONS = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "<=>",
}
_INVERSE = {"=": "<>", "<>": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def text_literal(text: str) -> str:
    """SQL of a text."""
    if "\0" in text:
        return f"CAST(x'{text.encode().hex()}' AS TEXT)"
    return "'" + text.replace("'", "''") + "'"


class Expressions:
    """Compiles expressions of one query.

    Args:
      scope: what names mean.
      subquery: compiles a query inside this one; (tree, scope) -> compiled query.
    """

    def __init__(self, scope: Scope, subquery: Callable):
        self.scope = scope
        self._query = subquery
        self.windows: dict[str, exp.Window] = {}

    def value(self, node: exp.Expression) -> Value:
        """The compiled expression.

        Raises:
          MySQLError: a name is unknown, or something is used where it may not be.
        """
        scope = self.scope
        if not scope.grouped or isinstance(node, (exp.Literal, exp.Paren)):
            return self._value(node)
        if scope.first:
            scope.first, bare, saw = False, len(scope.bare), scope.aggregated
            plain = self._value(node)
            scope.first = True
            del scope.bare[bare:]
            scope.aggregated = saw
            return plain if plain.sql in scope.grouped else self._value(node)
        before = len(scope.bare)
        found = self._value(node)
        if found.sql in scope.grouped:
            del scope.bare[before:]
        return found

    def _value(self, node: exp.Expression) -> Value:
        kind = type(node)
        if kind in _COMPARISONS:
            return self._comparison(_COMPARISONS[kind], node.this, node.expression)
        if kind in _ARITHMETIC:
            return self._arithmetic(_ARITHMETIC[kind], node)
        if kind in _BITWISE:
            left, right = self.value(node.this), self.value(node.expression)
            return operators.bitwise(_BITWISE[kind], left, right)
        method = getattr(self, f"_{kind.__name__.lower()}", None)
        if method is None:
            raise unsupported(kind.__name__)
        return method(node)

    def condition(self, node: exp.Expression) -> str:
        """SQL of the expression as a condition."""
        return to_bool(self.value(node))

    # ---- leaves

    def _literal(self, node: exp.Literal) -> Value:
        text = node.this
        if node.is_string:
            return Value(text_literal(text), TEXT, text)
        if text.isdecimal():
            number = int(text)
            if number <= _LARGEST:
                return Value(str(number), INT, number)
            return Value(f"'{number}'", decimal(0))
        if "e" in text.lower():
            return Value(f"m_number('{text}')", Type(Kind.DOUBLE))
        digits = text.partition(".")[2]
        return Value(f"'{text.strip('.') or '0'}'", decimal(len(digits)))

    def _null(self, node: exp.Null) -> Value:
        return NULL_VALUE

    def _boolean(self, node: exp.Boolean) -> Value:
        return Value(str(int(node.this)), INT)

    def _column(self, node: exp.Column) -> Value:
        if isinstance(node.this, exp.Star):
            raise MySQLError(1064, "You have an error in your SQL syntax near '*'")
        return self.scope.resolve(node.name, node.table, node.db)

    def _paren(self, node: exp.Paren) -> Value:
        return self.value(node.this)

    # ---- logic

    def _and(self, node: exp.And) -> Value:
        return operators.all_of([self.value(part) for part in _chain(node)])

    def _or(self, node: exp.Or) -> Value:
        return operators.any_of([self.value(part) for part in _chain(node)])

    def _xor(self, node: exp.Xor) -> Value:
        left, right = self.condition(node.this), self.condition(node.expression)
        return Value(f"((NOT {left}) <> (NOT {right}))", INT)

    def _not(self, node: exp.Not) -> Value:
        return Value(f"(NOT {self.condition(node.this)})", INT)

    def _is(self, node: exp.Is) -> Value:
        value = self.value(node.this)
        if isinstance(node.expression, exp.Boolean):
            holds = to_bool(value)
            if node.expression.this:
                return Value(f"(IFNULL({holds}, 0) <> 0)", INT)
            return Value(f"(IFNULL({holds}, 1) = 0)", INT)
        return Value(f"({value.sql} IS NULL)", INT)

    # ---- comparisons

    def _comparison(self, operator: str, left, right) -> Value:
        for kind in (exp.Any, exp.All):
            if isinstance(right, kind):
                return self._quantified(operator, left, right)
        if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple):
            pairs = self._pairs(left, right)
            equal = operators.all_of([operators.compare("=", a, b) for a, b in pairs])
            if operator in ("=", "<=>"):
                return equal
            if operator == "<>":
                return Value(f"(NOT {equal.sql})", INT)
            raise unsupported("comparing the order of rows")
        return operators.compare(operator, self.value(left), self.value(right))

    def _pairs(self, left: exp.Tuple, right) -> list[tuple[Value, Value]]:
        first = [self.value(part) for part in left.expressions]
        if not isinstance(right, exp.Tuple) or len(right.expressions) != len(first):
            raise MySQLError(1241, f"Operand should contain {len(first)} column(s)")
        second = [self.value(part) for part in right.expressions]
        return list(zip(first, second, strict=True))

    def _tuple(self, node: exp.Tuple) -> Value:
        raise MySQLError(1241, "Operand should contain 1 column(s)")

    def _quantified(self, operator: str, left, right) -> Value:
        value = self.value(left)
        query = self._of_one_column(right.this)
        every = isinstance(right, exp.All)
        if every:
            operator = _INVERSE[operator]
        row = Value("q.k1", query.columns[0].value.type)
        holds = operators.compare(operator, value, row).sql
        # Three-valued: true if some row fits, else NULL if some is unknown.
        sql = f"(SELECT MAX(CASE WHEN {holds} THEN 2 WHEN {holds} IS NULL THEN 1 END)"
        found = f"IFNULL({sql} FROM ({query.sql}) AS q), 0)"
        yes, no = (0, 1) if every else (1, 0)
        return Value(f"(CASE {found} WHEN 2 THEN {yes} WHEN 0 THEN {no} END)", INT)

    def _of_one_column(self, node, columns: int = 1):
        query = self._query(node, self.scope)
        if len(query.columns) != columns:
            raise MySQLError(1241, f"Operand should contain {columns} column(s)")
        return query

    def _between(self, node: exp.Between) -> Value:
        low, high = self.value(node.args["low"]), self.value(node.args["high"])
        return operators.between(self.value(node.this), low, high)

    def _in(self, node: exp.In) -> Value:
        if (query := node.args.get("query")) is not None:
            return self._in_query(node.this, query)
        if isinstance(node.this, exp.Tuple):
            rows = [self._pairs(node.this, row) for row in node.expressions]
            return operators.any_of(
                [
                    operators.all_of([operators.compare("=", a, b) for a, b in row])
                    for row in rows
                ]
            )
        value = self.value(node.this)
        return operators.is_in(value, [self.value(e) for e in node.expressions])

    def _in_query(self, left, node) -> Value:
        if any(isinstance(n, exp.Limit) for n in _own_limit(node)):
            raise MySQLError(
                1235,
                "This version of MySQL doesn't yet support 'LIMIT & IN/ALL/ANY/SOME "
                "subquery'",
            )
        parts = left.expressions if isinstance(left, exp.Tuple) else [left]
        values = [self.value(part) for part in parts]
        query = self._of_one_column(node, len(values))
        inner = [
            Value(f"q.k{number}", column.value.type)
            for number, column in enumerate(query.columns, 1)
        ]
        sides = [operators.comparable(a, b) for a, b in zip(values, inner, strict=True)]
        first = ", ".join(side[0] for side in sides)
        second = ", ".join(side[1] for side in sides)
        if len(sides) > 1:
            first = f"({first})"
        return Value(f"({first} IN (SELECT {second} FROM ({query.sql}) AS q))", INT)

    def _exists(self, node: exp.Exists) -> Value:
        query = self._query(node.this, self.scope)
        return Value(f"(EXISTS ({query.sql}))", INT)

    def _subquery(self, node) -> Value:
        query = self._of_one_column(node)
        kind = query.columns[0].value.type
        if query.single:
            return Value(f"({query.sql})", kind)
        return Value(f"(SELECT m_single(q.k1) FROM ({query.sql}) AS q)", kind)

    _select = _union = _subquery

    def _like(self, node: exp.Like, escape: str = "\\") -> Value:
        value, pattern = self.value(node.this), self.value(node.expression)
        found = operators.like(value, pattern, escape)
        if node.args.get("negate"):
            return Value(f"(NOT {found.sql})", INT)
        return found

    def _escape(self, node: exp.Escape) -> Value:
        letter = self.value(node.expression).constant
        if not isinstance(letter, str) or len(letter) > 1:
            raise MySQLError(1210, "Incorrect arguments to ESCAPE")
        return self._like(node.this, letter)

    def _regexplike(self, node: exp.RegexpLike) -> Value:
        value, pattern = self.value(node.this), self.value(node.expression)
        exact = int(value.type.exact or Kind.BINARY in (value.type.kind,))
        sql = f"m_regexp({to_text(value)}, {to_text(pattern)}, {exact})"
        return Value(sql, INT)

    def _collate(self, node: exp.Collate) -> Value:
        value = self.value(node.this)
        name = node.expression.name.lower()
        if not re.fullmatch(r"binary|\w+_(ci|cs|bin|nopad_ci)", name):
            raise MySQLError(1273, f"Unknown collation: '{name}'")
        exact = name == "binary" or name.endswith(("_bin", "_cs"))
        return Value(to_text(value), Type(Kind.TEXT, exact=exact), value.constant)

    # ---- arithmetic

    def _arithmetic(self, operator: str, node) -> Value:
        left, right = node.this, node.expression
        for amount, other in ((right, left), (left, right)):
            if isinstance(amount, exp.Anonymous) and amount.name == "F_INTERVAL":
                if operator == "+" or (operator == "-" and amount is right):
                    number, unit = amount.expressions
                    sign = "-" if operator == "-" else "+"
                    values = self.value(other), self.value(number)
                    return interval_sum(*values, unit.name, sign)
        return operators.arithmetic(operator, self.value(left), self.value(right))

    def _neg(self, node: exp.Neg) -> Value:
        return operators.negative(self.value(node.this))

    def _bitwisenot(self, node: exp.BitwiseNot) -> Value:
        value = self.value(node.this)
        return operators.bitwise("^", value, Value("-1", INT))

    # ---- CASE and calls

    def _case(self, node: exp.Case) -> Value:
        base = self.value(node.this) if node.this is not None else None
        conditions, results = [], []
        for branch in node.args["ifs"]:
            if base is None:
                conditions.append(self.condition(branch.this))
            else:
                choice = self.value(branch.this)
                conditions.append(operators.compare("=", base, choice).sql)
            results.append(self.value(branch.args["true"]))
        default = node.args.get("default")
        results.append(NULL_VALUE if default is None else self.value(default))
        kind = merge([value.type for value in results])
        whens = " ".join(
            f"WHEN {condition} THEN {convert(value, kind)}"
            for condition, value in zip(conditions, results, strict=False)
        )
        return Value(f"(CASE {whens} ELSE {convert(results[-1], kind)} END)", kind)

    def _anonymous(self, node: exp.Anonymous) -> Value:
        name = node.name.removeprefix("F_").upper()
        if name in AGGREGATES:
            return aggregate(self, name, node.expressions)
        if not is_known(name):
            raise unknown_function(node.name.removeprefix("F_"), self.scope)
        arguments = [self.value(argument) for argument in node.expressions]
        return call(name, arguments, self.scope)

    def _window(self, node: exp.Window) -> Value:
        return window(self, node)


def _chain(node: exp.Expression) -> list[exp.Expression]:
    """The parts of a AND b AND c, however deep it is nested to the left."""
    kind, parts = type(node), []
    while type(node) is kind:
        parts.append(node.expression)
        node = node.this
    return [node, *reversed(parts)]


def _own_limit(node: exp.Expression) -> list:
    """The LIMIT of a query itself."""
    query = node.this if isinstance(node, exp.Subquery) else node
    limits = [node.args.get("limit"), query.args.get("limit")]
    return [limit for limit in limits if limit is not None]
