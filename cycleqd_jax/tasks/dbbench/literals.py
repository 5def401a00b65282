"""Values of answers: Python literals and arithmetic, evaluated within bounds.

The reference gives an answer's text to `eval`. This evaluates only what answers use,
and cannot run, read or fill anything: constants, lists, tuples, sets, dicts,
`+ - * / // % **`, bit operations, `not`, comparisons, `and`, `or` and `x if y else z`.
Names, calls, subscripts and comprehensions are refused.
"""

import ast
import operator
import warnings
from collections.abc import Callable
from typing import Any

_LONGEST_TEXT = 20_000  # characters
_LONGEST_VALUE = (
    10_000  # elements, at all depths, of what `*` and `+` make of texts and lists
)
_MOST_BITS = 20_000  # of an integer

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def evaluate(text: str) -> Any:
    """The value of an expression.

    Args:
      text: as a model wrote it; may begin with white space.

    Raises:
      ValueError: it is another expression, has no value, or its value is too large.
    """
    if len(text) > _LONGEST_TEXT:
        raise ValueError("too long")
    try:
        with warnings.catch_warnings():  # of odd escapes, which are none of ours
            warnings.simplefilter("ignore")
            tree = ast.parse(text.lstrip(" \t"), mode="eval")
        return _value(tree.body)
    except (
        SyntaxError,
        TypeError,
        ArithmeticError,
        RecursionError,
        MemoryError,  # the parser's word for brackets nested too deeply
    ) as err:
        raise ValueError(f"no value: {err}") from err


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.List():
            return _elements(node.elts)
        case ast.Tuple():
            return tuple(_elements(node.elts))
        case ast.Set():
            return set(_elements(node.elts))
        case ast.Dict():
            if None in node.keys:  # {**other}
                raise ValueError("unpacking is no literal")
            return {
                _value(key): _value(value)
                for key, value in zip(node.keys, node.values, strict=True)
            }
        case ast.UnaryOp():
            return _UNARY[type(node.op)](_value(node.operand))
        case ast.BinOp() if type(node.op) in _BINARY:
            return _binary(type(node.op), _value(node.left), _value(node.right))
        case ast.BoolOp():
            stop = isinstance(node.op, ast.Or)
            for operand in node.values:
                value = _value(operand)
                if bool(value) is stop:
                    break
            return value
        case ast.Compare():
            return _compare(node)
        case ast.IfExp():
            return _value(node.body if _value(node.test) else node.orelse)
    raise ValueError(f"{type(node).__name__} is neither literal nor arithmetic")


def _elements(nodes: list[ast.expr]) -> list[Any]:
    return [_value(node) for node in nodes]


def _binary(kind: type[ast.operator], left: Any, right: Any) -> Any:
    """One operation, after a look at how large its value will be."""
    numbers = isinstance(left, int) and isinstance(right, int)
    if kind is ast.Pow and numbers and right > 0:
        _bound(left.bit_length() * right, _MOST_BITS)
    elif kind is ast.LShift and numbers:
        _bound(left.bit_length() + right, _MOST_BITS)
    elif kind is ast.Mult and numbers:
        _bound(left.bit_length() + right.bit_length(), _MOST_BITS)
    elif kind is ast.Mult:
        for sequence, times in ((left, right), (right, left)):
            if hasattr(sequence, "__len__") and isinstance(times, int):
                _bound(_size(sequence) * times, _LONGEST_VALUE)
    elif kind is ast.Add and hasattr(left, "__len__") and hasattr(right, "__len__"):
        _bound(_size(left) + _size(right), _LONGEST_VALUE)
    elif kind is ast.Mod and isinstance(left, (str, bytes)):
        raise ValueError("a formatted text is no literal")  # "%999999999d" % 1
    return _BINARY[kind](left, right)


def _size(value: Any) -> int:
    """Elements at all depths, shared ones as often as they occur."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(_size(k) + _size(v) for k, v in value.items()) + 1
    return sum(map(_size, value)) + 1 if hasattr(value, "__len__") else 1


def _bound(size: int, most: int) -> None:
    if size > most:
        raise ValueError("too large")


def _compare(node: ast.Compare) -> Any:
    left = _value(node.left)
    for kind, comparator in zip(node.ops, node.comparators, strict=True):
        if type(kind) not in _COMPARE:  # `is`, whose value is an accident
            raise ValueError("identity is no arithmetic")
        right = _value(comparator)
        result = _COMPARE[type(kind)](left, right)
        if not result:
            return result
        left = right
    return result
