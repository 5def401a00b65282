"""How outputs leave the sandbox: as frames of plain or tagged values.

Part of the program in the sandbox, see `_runner`. A frame is a kind, the CPU time of
the call (microseconds, 8 bytes), the size of its content (4 bytes) and the content;
numbers are little-endian.

    L  the code was executed and has the function
    P  a plain value           T  a tagged one, see `values`
    D  SHA-256 of a plain value that is too long to be sent, B the same and the value
    E  an exception, as text   X  the end of a set, why it ended as text
    U  content: CPU microseconds of a fixed piece of work
"""

import marshal
import posix
import sys

FULL_BYTES = 2**20  # longer values are not sent
DIGEST_BYTES = 2**18  # of longer values the hash is sent
TOTAL_BYTES = 2**24  # of all values of a set; then only hashes
MAX_DEPTH = 50


def frame(kind, content, cpu_s=0.0):
    """One frame."""
    cpu = max(0, int(cpu_s * 1e6)).to_bytes(8, "little")
    return kind + cpu + len(content).to_bytes(4, "little") + content


def write(fd, data):
    """Writes all of `data`."""
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view) :]


class Sender:
    """Writes outputs as frames."""

    def __init__(self, fd):
        self.fd = fd
        self.left = TOTAL_BYTES

    def send(self, value, cpu_s, as_set):
        """One output; as_set: any iterable stands for its elements."""
        try:
            data, kind = marshal.dumps(value, 2), b"P"
            if "numpy" in sys.modules and not is_plain(value):
                raise ValueError  # to marshal NumPy's numbers are bytes
        except ValueError:  # it is not plain
            if as_set and not is_plain_kind(value):
                tree = ("inexact", tagged(list(value), 0))
            else:
                tree = tagged(value, 0)
            data, kind = marshal.dumps(tree, 2), b"T"
        size = len(data)
        if kind == b"P" and size > DIGEST_BYTES:
            digest = sha256(data)
            fits = size <= FULL_BYTES and size <= self.left
            data, kind = (digest + data, b"B") if fits else (digest, b"D")
        elif size > FULL_BYTES or size > self.left:
            data, kind = marshal.dumps(("other", "long value"), 2), b"T"
        self.left -= len(data)
        write(self.fd, frame(kind, data, cpu_s))


def sha256(data):
    """The hash of some bytes."""
    import hashlib

    return hashlib.sha256(data).digest()


def is_plain(value):
    """Whether all of a value that `marshal` takes is of built-in types."""
    left = [value]
    while left:
        value = left.pop()
        kind = type(value)
        if kind in (list, tuple, set, frozenset):
            left += value
        elif kind is dict:
            left += dict.keys(value)
            left += dict.values(value)
        elif kind.__module__ != "builtins":
            return False
    return True


def is_plain_kind(value):
    """Whether it is of a built-in type or of a kind of one."""
    kinds = (str, bytes, tuple, list, set, frozenset, dict)
    return issubclass(type(value), kinds)


def tagged(value, depth, top=True):
    """A value as pairs of tag and content, with nothing but exact built-in types.

    What a subclass overrides is not asked: its value is that of the built-in type.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, complex, str, bytes):
        return value
    if depth > MAX_DEPTH:
        return ("other", "deep value")

    def inner(items):
        return [tagged(item, depth + 1, False) for item in items]

    def pairs(dictionary):
        return [
            (tagged(k, depth + 1, False), tagged(v, depth + 1, False))
            for k, v in dict.items(dictionary)
        ]

    if kind is list:
        return ("list", inner(value))
    if kind is tuple:
        return ("tuple", inner(value))
    if kind is set:
        return ("set", inner(value))
    if kind is frozenset:
        return ("frozenset", inner(value))
    if kind is dict:
        return ("dict", pairs(value))
    if kind is range:
        return ("range", value.start, value.stop, value.step)
    result = of_subclass(value, kind, inner, pairs)
    if result is None:
        result = of_library(value, kind, inner)
    if result is None:
        return ("other", str(kind.__name__)[:100])
    return ("inexact", result) if top else result


def of_subclass(value, kind, inner, pairs):
    """A value of a subclass of a built-in type, else None."""
    if issubclass(kind, dict):
        tag = "dict"
        collections = sys.modules.get("collections")
        if collections is not None:
            if issubclass(kind, collections.Counter):
                tag = "counter"
            elif issubclass(kind, collections.OrderedDict):
                return ("ordered", pairs(dict(collections.OrderedDict.items(value))))
        return (tag, pairs(value))
    if issubclass(kind, int):
        return int.__add__(value, 0)
    if issubclass(kind, float):
        return float.__pos__(value)
    if issubclass(kind, complex):
        return complex.__pos__(value)
    if issubclass(kind, str):
        return "".join([value])
    if issubclass(kind, bytes):
        return b"".join([value])
    if issubclass(kind, tuple):
        return ("tuple", inner(tuple.__iter__(value)))
    if issubclass(kind, list):
        return ("list", inner(list.__iter__(value)))
    if issubclass(kind, set):
        return ("set", inner(set.__iter__(value)))
    if issubclass(kind, frozenset):
        return ("frozenset", inner(frozenset.__iter__(value)))
    return None


def of_library(value, kind, inner):
    """A value of a library's type that may equal a built-in one, else None."""
    if kind in (type({}.keys()), type({}.items())):
        return ("set", inner(value))
    if kind is type(type.__dict__):  # a read-only dictionary
        return inner([dict(value)])[0]
    modules = sys.modules
    if "fractions" in modules and kind is modules["fractions"].Fraction:
        return ("fraction", int(value.numerator), int(value.denominator))
    if "decimal" in modules and kind is modules["decimal"].Decimal:
        return ("decimal", str(value))
    if "collections" in modules:
        collections = modules["collections"]
        if kind is collections.deque:
            return ("deque", inner(value))
        if kind is collections.ChainMap:
            return inner([dict(value)])[0]
        if kind in (
            collections.UserDict,
            collections.UserList,
            collections.UserString,
        ):
            return inner([value.data])[0]
    if "numpy" in modules:
        numpy = modules["numpy"]
        if issubclass(kind, numpy.generic) and not issubclass(kind, numpy.void):
            return tagged(value.item(), 0, False)
        if kind is numpy.ndarray and value.size == 1:  # of longer ones == is no bool
            return ("array", value.ndim, inner([value.item()])[0])
    return None
