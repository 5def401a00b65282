"""The closed encoding in which a sandboxed program hands values out.

It is JSON with tagged containers, so that reading it can only make plain values:

    None, bool, int, float, str   as JSON has them
    list                          [...]
    tuple, set, dict              {"tuple": [...]}, {"set": [...]}, {"dict": [[k, v]]}
    anything else                 {"other": "type name"}

The encoder is source text for the other process: it imports nothing, which keeps the
start of a program short. What the other process may forge is values, nothing more.
"""

import json
import math
from typing import Any

ENCODER = """
def _text(s):
    out = []
    for c in s:
        n = ord(c)
        if 32 <= n < 127 and c not in '"\\\\':
            out.append(c)
        elif n < 65536:
            out.append("\\\\u%04x" % n)
        else:
            n -= 65536
            out.append("\\\\u%04x\\\\u%04x" % (55296 + (n >> 10), 56320 + (n & 1023)))
    return '"' + "".join(out) + '"'


def _encode(v, depth=0):
    kind = type(v)
    if v is None:
        return "null"
    if kind is bool:
        return "true" if v else "false"
    if kind is int:
        return int.__repr__(v)
    if kind is float:
        if v != v:
            return "NaN"
        if v in (float("inf"), -float("inf")):
            return "Infinity" if v > 0 else "-Infinity"
        return float.__repr__(v)
    if kind is str:
        return _text(v)
    if depth < 8:
        if kind is list:
            return "[" + ",".join([_encode(x, depth + 1) for x in v]) + "]"
        if kind is tuple:
            return '{"tuple":' + _encode(list(v), depth + 1) + "}"
        if kind is set or kind is frozenset:
            return '{"set":' + _encode(list(v), depth + 1) + "}"
        if kind is dict:
            return '{"dict":' + _encode([list(x) for x in v.items()], depth + 1) + "}"
    return '{"other":' + _text(kind.__name__) + "}"
"""


class Other:
    """A value that has no encoding; equal to nothing, itself included.

    Attributes:
      name: of its type, as the other process gave it.
    """

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def decode(text: bytes) -> Any:
    """Reads what the encoder wrote.

    Args:
      text: one encoded value; the caller has bounded its length.

    Returns:
      Plain Python values, and `Other` for what has no encoding.

    Raises:
      ValueError: if it is not in the encoding.
    """
    try:
        return _untag(json.loads(text.decode("ascii")))
    except RecursionError as err:
        raise ValueError("nested too deeply") from err


def same(expected: Any, actual: Any) -> bool:
    """Whether a decoded value equals an expected one.

    Types count: list is not tuple, str is not bytes, a bool equals only a bool. Among
    numbers, int and float compare by value, with a relative tolerance of 1e-6 if
    either is a float, because sums may be taken in any order. Sets and the order of
    a dict's keys do not matter; NaN equals nothing.
    """
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(expected, int) and isinstance(actual, int):
        return expected == actual
    if isinstance(expected, (int, float)) and isinstance(actual, (int, float)):
        return math.isclose(_float(expected), _float(actual), rel_tol=1e-6)
    if type(expected) is not type(actual):
        return False
    if isinstance(expected, (list, tuple)):
        return len(expected) == len(actual) and all(
            same(a, b) for a, b in zip(expected, actual, strict=True)
        )
    if isinstance(expected, dict):
        return expected.keys() == actual.keys() and all(
            same(value, actual[key]) for key, value in expected.items()
        )
    return expected == actual


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.nan


def _untag(value: Any) -> Any:
    if isinstance(value, list):
        return [_untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    match list(value.items()):
        case [("tuple", list(items))]:
            return tuple(_untag(item) for item in items)
        case [("set", list(items))]:
            return _hashed(set, [_untag(item) for item in items])
        case [("dict", list(items))]:
            pairs = [_untag(item) for item in items]
            if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                raise ValueError("a dict's items are not pairs")
            return _hashed(dict, [tuple(pair) for pair in pairs])
        case [("other", str(name))]:
            return Other(name)
    raise ValueError("an unknown tag")


def _hashed(kind: type, items: list[Any]) -> Any:
    try:
        return kind(items)
    except TypeError as err:
        raise ValueError("an unhashable key or element") from err
