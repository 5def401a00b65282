"""The closed encoding in which outputs come out of the sandbox.

The other process writes a plain value as `marshal` version 2, which is quick and takes
exact built-in types only. Nothing here gives it to `marshal.loads`, which is not made
for bytes of an adversary: `decode_plain` reads the types below and no others, so that
reading can only make plain values.

    None, False, True              N F T
    int                            i (32 bits), l (digits of 15 bits)
    float, complex                 g y (little-endian doubles)
    bytes, str                     s u (length and content; UTF-8, surrogates passed)
    tuple, list                    ( [  (length and items)
    set, frozenset                 < >
    dict                           {  (keys and values, ended by 0)

What is not plain (a subclass, a `Counter`, a `re.Match`) is written as a tree of pairs
`(tag, content)`, in the same bytes; `decode_tagged` reads that.
"""

import collections
import decimal
import fractions
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_MAX_DEPTH = 120  # deeper values equal nothing
_MAX_RANGE = 10**6  # so do longer ranges
_MAX_FRACTION_BITS = 10**5  # and fractions of longer numbers
_MAX_SAME_HASH = 100  # and sets and dictionaries with more keys of one hash


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


class Inexact:
    """A value whose type is only a kind of a built-in one; at the top only.

    It equals what the built-in value equals, but it is not of the expected type, which
    is what counts where a tolerance applies.

    Attributes:
      value: of the built-in type.
    """

    def __init__(self, value: Any):
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def decode_plain(data: bytes) -> Any:
    """Reads one plain value.

    Args:
      data: its encoding; the caller has bounded its length.

    Raises:
      ValueError: it is not in the encoding, not all of it is the value, or it is
        nested too deeply.
    """
    reader = _Reader(data)
    try:
        value = reader.value(0)
    except (IndexError, struct.error, TypeError) as err:  # TypeError: not hashable
        raise ValueError("not an encoded value") from err
    if reader.at != len(data):
        raise ValueError("bytes follow the value")
    return value


def decode_tagged(data: bytes) -> Any:
    """Reads a tree of tagged values, see the module.

    Raises:
      ValueError: it is none.
    """
    try:
        return _untag(decode_plain(data), top=True)
    except (TypeError, ArithmeticError) as err:  # not hashable, a fraction over 0
        raise ValueError("not a tagged value") from err


def hashable(keys: list[Any]) -> list[Any]:
    """The same keys; a set of them takes a time that grows with their number only.

    Raises:
      ValueError: so many have the same hash that somebody must have chosen them.
      TypeError: one is not hashable.
    """
    if len(keys) <= _MAX_SAME_HASH:
        return keys
    by_hash: dict[int, list[Any]] = {}
    for key in keys:
        different = by_hash.setdefault(hash(key), [])
        if key not in different:
            different.append(key)
            if len(different) > _MAX_SAME_HASH:
                raise ValueError("too many keys have the same hash")
    return keys


class _Reader:
    """Reads values from `data`, one after another."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        kind = self.data[self.at]
        self.at += 1
        if (read := _SCALARS.get(kind)) is not None:
            return read(self)
        match kind:
            case 0x28:  # (
                return tuple(self._items(depth))
            case 0x5B:  # [
                return self._items(depth)
            case 0x3C:  # <
                return set(hashable(self._items(depth)))
            case 0x3E:  # >
                return frozenset(hashable(self._items(depth)))
            case 0x7B:  # {
                return self._dict(depth)
        raise ValueError("an unknown type")

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self.at + size
        if size < 0 or end > len(self.data):
            raise ValueError("the value is cut off")
        part = self.data[self.at : end]
        self.at = end
        return part

    def number(self) -> int:
        """A signed number of 32 bits."""
        return int.from_bytes(self.take(4), "little", signed=True)

    def _items(self, depth: int) -> list[Any]:
        size = self.number()
        if not 0 <= size <= len(self.data) - self.at:  # each has a byte at least
            raise ValueError("the value is cut off")
        return [self.value(depth + 1) for _ in range(size)]

    def _dict(self, depth: int) -> dict[Any, Any]:
        keys, items = [], []
        while self.data[self.at] != 0x30:  # 0
            keys.append(self.value(depth + 1))
            items.append(self.value(depth + 1))
        self.at += 1
        return dict(zip(hashable(keys), items, strict=True))


def _long(reader: _Reader) -> int:
    count = reader.number()
    digits = struct.unpack(f"<{abs(count)}H", reader.take(2 * abs(count)))
    if any(digit >> 15 for digit in digits) or (digits and not digits[-1]):
        raise ValueError("a digit is none")
    # Linear in the number of digits, as a base of two is.
    text = "".join(f"{digit:015b}" for digit in reversed(digits))
    size = int(text or "0", 2)
    return -size if count < 0 else size


_SCALARS: dict[int, Callable[[_Reader], Any]] = {
    ord("N"): lambda reader: None,
    ord("F"): lambda reader: False,
    ord("T"): lambda reader: True,
    ord("i"): _Reader.number,
    ord("l"): _long,
    ord("g"): lambda reader: struct.unpack("<d", reader.take(8))[0],
    ord("y"): lambda reader: complex(*struct.unpack("<dd", reader.take(16))),
    ord("s"): lambda reader: reader.take(reader.number()),
    ord("u"): lambda r: r.take(r.number()).decode("utf-8", "surrogatepass"),
}


def _untag(node: Any, top: bool = False) -> Any:
    if not isinstance(node, tuple):
        return node
    match node:
        case ("inexact", inner):
            value = _untag(inner)
            return Inexact(value) if top else value
        case ("other", str(name)):
            return Other(name[:100])
        case ("dict" | "ordered" | "counter" as kind, list(pairs)):
            keys = hashable([_untag(key) for key, _ in pairs])
            items = [_untag(item) for _, item in pairs]
            return _DICTS[kind](list(zip(keys, items, strict=True)))
        case ("list" | "tuple" | "set" | "frozenset" | "deque" as kind, list(items)):
            content = [_untag(item) for item in items]
            hashed = kind in ("set", "frozenset")
            return _SEQUENCES[kind](hashable(content) if hashed else content)
        case ("range", int(start), int(stop), int(step)):
            value = range(start, stop, step)
            # Nobody may be made to walk through a long one.
            long = abs(stop - start) > _MAX_RANGE * abs(step)
            return Other("range") if long else value
        case ("fraction", int(numerator), int(denominator)):
            bits = max(numerator.bit_length(), denominator.bit_length())
            if bits > _MAX_FRACTION_BITS:  # to reduce it takes long
                return Other("Fraction")
            return fractions.Fraction(numerator, denominator)
        case ("decimal", str(text)):
            return decimal.Decimal(text)
        case ("array", int(dimensions), bool() | int() | float() | complex() as item):
            return np.asarray(item).reshape((1,) * dimensions)
    raise ValueError("an unknown tag")


_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}


def _counter(pairs: list[tuple[Any, Any]]) -> collections.Counter:
    return collections.Counter(dict(pairs))


_DICTS: dict[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "dict": dict,
    "ordered": collections.OrderedDict,
    "counter": _counter,
}
