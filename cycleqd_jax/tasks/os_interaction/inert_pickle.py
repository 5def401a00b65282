"""Pickles read as plain data, whatever is in them: nothing of them is ever called.

A pickle is a program for a small stack machine, and Python's own runs any function that
the program names. This one knows only what builds lists, tuples, dictionaries, texts,
numbers and the fields of objects; all else is an error. Dictionaries have texts as keys
only: a tuple that holds one tuple many times over would take for ever to hash.
"""

import dataclasses
import pickletools
from collections.abc import Collection
from typing import Any

_VALUES = {  # that carry what they push
    "BININT",
    "BININT1",
    "BININT2",
    "BINUNICODE",
    "SHORT_BINUNICODE",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = {"PROTO", "FRAME"}


@dataclasses.dataclass(eq=False)
class Holder:
    """What stands for an object.

    Attributes:
      kind: name of its class, with the module.
      fields: its attributes.
    """

    kind: str
    fields: dict[str, Any]


@dataclasses.dataclass(eq=False)
class _Class:
    kind: str


def loads(content: bytes, classes: Collection[str], longest: int) -> Any:
    """What a pickle of protocol 4 or 5 holds, with a `Holder` for each object.

    Values may be shared and may even hold themselves: do not print them, compare them
    or walk through them without a limit.

    Args:
      content: the pickle.
      classes: names of classes, with the module, that its objects may have.
      longest: items that a list or a dictionary may have: a small file can use a long
        one many times over.

    Raises:
      ValueError: it is damaged, cut off, or does anything but build such data.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: list[Any] = []

    def take(count: int) -> list[Any]:
        _expect(count <= len(stack), "nothing is left to take")
        taken = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return taken

    def marked() -> list[Any]:
        _expect(bool(marks), "there is no mark")
        return take(max(0, len(stack) - marks.pop()))

    def top(kind: type) -> Any:
        _expect(bool(stack) and isinstance(stack[-1], kind), f"no {kind.__name__}")
        return stack[-1]

    for opcode, argument, place in pickletools.genops(content):
        try:
            match opcode.name:
                case name if name in _VALUES:
                    if isinstance(argument, str):
                        argument.encode()  # half characters cannot be
                    stack.append(argument)
                case name if name in _CONSTANTS:
                    stack.append(_CONSTANTS[name])
                case name if name in _SHORT_TUPLES:
                    stack.append(tuple(take(_SHORT_TUPLES[name])))
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "MARK":
                    marks.append(len(stack))
                case "TUPLE":
                    stack.append(tuple(marked()))
                case "APPEND" | "APPENDS":
                    values = take(1) if opcode.name == "APPEND" else marked()
                    top(list).extend(values)
                    _expect(len(stack[-1]) <= longest, "its list is too long")
                case "SETITEM" | "SETITEMS":
                    pairs = take(2) if opcode.name == "SETITEM" else marked()
                    _set(top(dict), pairs)
                    _expect(len(stack[-1]) <= longest, "its dictionary is too long")
                case "MEMOIZE":
                    memo.append(top(object))
                case "BINGET" | "LONG_BINGET":
                    _expect(argument < len(memo), "nothing is remembered there")
                    stack.append(memo[argument])
                case "STACK_GLOBAL":
                    module, name = take(2)
                    kind = f"{module}.{name}" if _texts(module, name) else ""
                    _expect(kind in classes, f"its classes have not {kind[:80]!r}")
                    stack.append(_Class(kind))
                case "NEWOBJ":
                    made, given = take(2)
                    _expect(isinstance(made, _Class) and given == (), "no object")
                    stack.append(Holder(made.kind, {}))
                case "BUILD":
                    (state,) = take(1)
                    _expect(isinstance(state, dict), "no fields")
                    top(Holder).fields.update(state)
                case "STOP":
                    (value,) = take(1)
                    return value
                case name if name not in _IGNORED:
                    raise ValueError("such data have no need of it")
        except ValueError as err:
            raise ValueError(f"{opcode.name} at byte {place}: {err}") from err
    raise AssertionError("genops ends with STOP or an error")


def _expect(right: bool, why: str) -> None:
    if not right:
        raise ValueError(why)


def _texts(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _set(target: dict[str, Any], pairs: list[Any]) -> None:
    keys, values = pairs[::2], pairs[1::2]
    _expect(len(keys) == len(values) and _texts(*keys), "its keys are no texts")
    target.update(zip(keys, values, strict=True))
