"""A closed encoding of Python values: how outputs leave a sandboxed program.

The text is JSON. What JSON does not have is an object with one key, the type's name:

    null, true, 12, -0.0, NaN, "text", [...]    None, bool, int, float, str, list
    {"tuple": [...]}                            also set, frozenset and deque
    {"dict": [[key, item], ...]}                also Counter and OrderedDict
    {"int": "-ff"}, {"bytes": "00ff"}           a large int and bytes, both hexadecimal
    {"complex": [0.0, 1.0]}, {"range": [0, 9, 2]}
    {"Fraction": [1, 2]}, {"Decimal": "0.5"}
    {"array": [dimensions, item]}               a NumPy array of one element
    {"like": ...}                               see `Like`
    {"sha256": "..."}                           see `Long`
    {"other": "name"}                           see `Other`

The program is hostile, so the text may hold anything. `decode` makes only the values
above, calls nothing that the text names, and takes time and memory in proportion to the
text's length, which is limited.

`encode` runs in the sandbox: programs get a copy of this file. That is why the file
needs nothing of this package and imports at its top only what starts at once.
"""

import marshal
import sys
from _json import encode_basestring_ascii as _text

LONGEST = 2**20  # characters of a text
LONGEST_PLAIN = 2**18  # marshalled bytes of a value that is written out
_MAX_DEPTH = 50
_MAX_RANGE = 10**6  # elements
_MAX_FRACTION_BITS = 10**5  # reducing larger fractions takes long
_MAX_SAME_HASH = 100  # different keys of one hash in a set or dictionary


class Other:
    """A value that has no encoding. It equals nothing, not even itself.

    Attributes:
      name: its type's name, as the program gave it.
    """

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"<{self.name}>"

    def __eq__(self, other):
        return False

    __hash__ = None


class Like:
    """A value whose type can equal a built-in type: a subclass, `dict.keys()`, NumPy's.

    Only the outermost value is marked so; values inside it are of the built-in types.

    Attributes:
      value: the equal value of the built-in type.
    """

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return repr(self.value)


class Long:
    """A value of built-in types that is too long to be sent; equals one of its digest.

    Attributes:
      digest: hex SHA-256 of the marshalled value.
    """

    def __init__(self, digest):
        self.digest = digest

    def __repr__(self):
        return "<long value>"

    def __eq__(self, other):
        return isinstance(other, Long) and self.digest == other.digest


# Encoding, in the sandbox.


def encode(value: object, longest_plain: int = LONGEST_PLAIN) -> str:
    """The text of any value: ASCII without line breaks, at most `LONGEST` characters.

    A subclass has the value of its base; its own methods are not called.

    Args:
      value: anything.
      longest_plain: of a value of built-in types with more marshalled bytes, the hash.
    """
    try:
        plain = marshal.dumps(value, 2)  # takes built-in types only, and is quick
    except ValueError:
        plain = b""
    if len(plain) <= longest_plain:
        text = _encode(value, 0)
        if len(text) <= LONGEST:
            return text
    if not plain:
        return _tag("other", '"long value"')
    from hashlib import sha256

    return _tag("sha256", _text(sha256(plain).hexdigest()))


def _encode(value, depth):
    kind = type(value)
    if kind in _SCALARS:
        return _SCALARS[kind](value)
    if depth > _MAX_DEPTH:
        return _tag("other", '"deep value"')
    if _name(kind) in _CONVERTED:
        return _like(_encode(_CONVERTED[_name(kind)](value), depth + 1), depth)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return _like(_encode(value.item(), depth + 1), depth)
    # `==` with a longer array gives no bool.
    if numpy is not None and kind is numpy.ndarray and value.size == 1:
        return _tag("array", _list((value.ndim, value.item()), depth))
    base = next((base for base in kind.__mro__ if _name(base) in _KNOWN), None)
    if base is None:
        return _tag("other", _text(str(kind.__name__)[:100]))
    text = _as(base, value, depth)
    return text if kind is base else _like(text, depth)


def _as(base, value, depth):
    """The text of a value as one of a known type, its own or a base."""
    name = _name(base)
    if base in _SCALARS:
        return _SCALARS[base](value)
    if name == "Decimal":
        return _tag(name, _text(base.__str__(value)))
    if name == "Fraction":
        parts = (int(value.numerator), int(value.denominator))
    elif name == "range":
        parts = (value.start, value.stop, value.step)
    elif name in ("dict", "Counter", "OrderedDict"):
        parts = [list(pair) for pair in base.items(value)]
        depth -= 1  # a pair is no level of its own
    else:
        parts = base.__iter__(value)
    return _list(parts, depth) if name == "list" else _tag(name, _list(parts, depth))


def _list(items, depth):
    return f"[{','.join([_encode(item, depth + 1) for item in items])}]"


def _tag(name, text):
    return f'{{"{name}":{text}}}'


def _like(text, depth):
    return text if depth else _tag("like", text)


def _name(kind):
    """The name by which a type is looked up; empty for types of other modules."""
    known = kind.__module__ in ("builtins", "collections", "decimal", "fractions")
    return kind.__name__ if known else ""


def _int(value):
    if int.bit_length(value) <= 64:
        return int.__repr__(value)
    return _tag("int", _text(int.__format__(value, "x")))  # decimal digits take long


def _float(value):
    text = float.__repr__(value)
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)


def _complex(value):
    value = complex.__pos__(value)
    return _tag("complex", f"[{_float(value.real)},{_float(value.imag)}]")


_SCALARS = {
    type(None): lambda value: "null",
    bool: lambda value: "true" if value else "false",
    int: _int,
    float: _float,
    complex: _complex,
    str: _text,
    bytes: lambda value: _tag("bytes", _text(bytes.hex(value))),
}
_KNOWN = (
    "int float complex str bytes list tuple set frozenset deque dict Counter "
    "OrderedDict range Fraction Decimal"
).split()
_CONVERTED = {  # types that equal a built-in one -> that one
    "dict_keys": set,
    "dict_items": set,
    "mappingproxy": dict,
    "ChainMap": dict,
    "UserDict": dict,
    "UserList": list,
    "UserString": str,
}


# Decoding, outside.


def decode(text: bytes) -> object:
    """The value of a text.

    Args:
      text: bytes that a program wrote, perhaps forged.

    Returns:
      A plain value; `Like`, `Long` and `Other` see there.

    Raises:
      ValueError: it is no text of the encoding.
    """
    import json

    if len(text) > LONGEST:
        raise ValueError("too long")
    try:
        return _make(json.loads(text.decode("ascii")))
    except (TypeError, AttributeError, ArithmeticError, RecursionError) as err:
        # A key that is not hashable, a fraction over 0, too many levels.
        raise ValueError("not an encoded value") from err


def describe(value):
    """A value on one short line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number with too many digits, for example
        text = f"a long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def hashable(keys):
    """The same keys, if a set of them takes a time that grows with their number only.

    Raises:
      ValueError: so many have the same hash that somebody must have chosen them.
      TypeError: one is not hashable.
    """
    by_hash = {}
    for key in keys if len(keys) > _MAX_SAME_HASH else ():
        different = by_hash.setdefault(hash(key), [])
        if key not in different:
            different.append(key)
            if len(different) > _MAX_SAME_HASH:
                raise ValueError("too many keys have the same hash")
    return keys


def _make(node):
    if isinstance(node, list):
        return [_make(item) for item in node]
    if not isinstance(node, dict):
        return node
    import collections
    import decimal
    import fractions

    ((kind, content),) = node.items()
    match kind, content:
        case (("tuple" | "deque"), list()):
            items = [_make(item) for item in content]
            return tuple(items) if kind == "tuple" else collections.deque(items)
        case (("set" | "frozenset"), list()):
            items = hashable([_make(item) for item in content])
            return set(items) if kind == "set" else frozenset(items)
        case (("dict" | "Counter" | "OrderedDict"), list()):
            keys = hashable([_make(key) for key, _ in content])
            made = zip(keys, [_make(item) for _, item in content], strict=True)
            return getattr(collections, kind, dict)(dict(made))
        case "int", str():
            return int(content, 16)
        case "bytes", str():
            return bytes.fromhex(content)
        case "complex", [float(real), float(imaginary)]:
            return complex(real, imaginary)
        case "range", [start, stop, step]:
            value = range(_make(start), _make(stop), _make(step))
            # Nobody may be made to walk through a long one.
            long = abs(value.stop - value.start) > _MAX_RANGE * abs(value.step)
            return Other("range") if long else value
        case "Fraction", [over, under]:
            over, under = _make(over), _make(under)
            if max(over.bit_length(), under.bit_length()) > _MAX_FRACTION_BITS:
                return Other("Fraction")
            return fractions.Fraction(over, under)
        case "Decimal", str():
            return decimal.Decimal(content)
        case "array", [int(dimensions), item]:
            import numpy

            made = _make(item)
            if isinstance(made, (int, float, complex)):
                return numpy.asarray(made).reshape((1,) * dimensions)
        case "like", _:
            return Like(_make(content))
        case "sha256", str():
            return Long(content)
        case "other", str():
            return Other(content[:100])
    raise ValueError(f"the type {kind[:100]!r} is unknown or has other content")
