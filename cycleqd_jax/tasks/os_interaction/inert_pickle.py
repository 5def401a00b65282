"""Pickles read as plain data: nothing that a pickle names is ever called.

The base class is the one that Python's standard library writes in Python: its table of
opcodes can be reduced to those that build lists, tuples, dictionaries, texts, numbers
and the fields of objects. The one in C also allocates whatever a pickle asks for.
"""

import io
import pickle
import struct
from collections.abc import Mapping
from typing import Any, ClassVar

_LONGEST = 1000  # items of one list or dictionary
_OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.MEMOIZE),
    *(pickle.BINGET, pickle.LONG_BINGET, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS),
    pickle.STACK_GLOBAL,
)


class _List(list):
    """A list of limited length: a small pickle can use a long one many times over."""

    def append(self, item: Any) -> None:
        self.extend((item,))

    def extend(self, items: Any) -> None:
        super().extend(items)
        if len(self) > _LONGEST:
            raise pickle.UnpicklingError("its list is too long")


class _Dict(dict):
    """A dictionary with texts as keys: the hash of nested tuples can take for ever."""

    def __setitem__(self, key: Any, item: Any) -> None:
        if not isinstance(key, str) or len(self) >= _LONGEST:
            raise pickle.UnpicklingError("its keys are no texts, or too many")
        super().__setitem__(key, item)


class _Unpickler(pickle._Unpickler):
    def __init__(self, content: bytes, classes: Mapping[str, type]):
        super().__init__(io.BytesIO(content))
        self._classes = classes

    def find_class(self, module: str, name: str) -> type:
        if f"{module}.{name}" not in self._classes:
            raise pickle.UnpicklingError(f"it names {module}.{name}"[:80])
        return self._classes[f"{module}.{name}"]

    def _new(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind not in self._classes.values() or arguments != ():
            raise pickle.UnpicklingError("it makes no empty object")
        self.append(object.__new__(kind))

    def _build(self) -> None:
        fields, made = self.stack.pop(), self.stack[-1]
        if type(made) not in self._classes.values() or not isinstance(fields, dict):
            raise pickle.UnpicklingError("it sets what are no fields of an object")
        vars(made).update(fields)

    def _text(self) -> None:
        self.load_binunicode()
        self.stack[-1].encode()  # refuses half characters

    def _short_text(self) -> None:
        self.load_short_binunicode()
        self.stack[-1].encode()

    dispatch: ClassVar = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES},
        pickle.EMPTY_LIST[0]: lambda self: self.append(_List()),
        pickle.EMPTY_DICT[0]: lambda self: self.append(_Dict()),
        pickle.SHORT_BINUNICODE[0]: _short_text,
        pickle.BINUNICODE[0]: _text,
        pickle.NEWOBJ[0]: _new,
        pickle.BUILD[0]: _build,
    }


def loads(content: bytes, classes: Mapping[str, type]) -> Any:
    """What a pickle of protocol 4 or 5 holds.

    Values may be shared and may hold themselves: do not print them, compare them or
    walk through them without a limit.

    Args:
      content: the pickle.
      classes: "module.name" -> the class that stands for it, one without methods.

    Raises:
      ValueError: it is damaged, cut off, or does anything but build such data.
    """
    try:
        return _Unpickler(content, classes).load()
    except (
        pickle.UnpicklingError,
        EOFError,
        LookupError,  # an opcode that is not in the table, or nothing to take
        AttributeError,
        TypeError,
        ValueError,
        struct.error,
    ) as err:
        raise ValueError(f"{type(err).__name__}: {err}") from err
