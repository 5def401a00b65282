"""Reads a compiled program: the bytes that it moves, and what devices tell each other.

XLA's own figure, "bytes accessed", also counts what moves within a chip. A weight that
is copied into on-chip memory ahead of its use counts four times: read, written, once
more where the copy is waited for, read by the product; five times where it is copied in
slices that are joined without a move. `Program.xla_traffic` takes the figure apart.

`Program.traffic` counts only arrays in a chip's main memory, once for each instruction
that reads or writes them. Where an instruction takes rows out of an array or writes
rows into one, only the rows count.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_BYTES = {"pred": 1, "bf16": 2}  # others: the digits in the name, in bits
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(
    r"\s+(?P<root>ROOT )?%(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) "
    r"(?P<op>[\w\-]+)\((?P<rest>.*)"
)
_CALLS = re.compile(
    r"(?:calls|body|condition|to_apply|branch_computations)="
    r"\{?((?:%[\w.\-]+(?:, )?)+)"
)
_NOTHING_MOVES = {
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "parameter",
    "partition-id",
    "tuple",
    "while",
}
_COPIES = ("copy-start", "slice-start")
_JOINS = 'custom_call_target="ConcatBitcast"'  # of slices that lie side by side
_TAKES_ROWS = {"gather", "dynamic-slice", "slice"}
_WRITES_ROWS = {"scatter": 2, "dynamic-update-slice": 1}  # op -> operand with the rows
_SAME = {"bitcast", "reshape", "transpose", "copy"}


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name: of its result.
      type: of its result, as written.
      op: the operation.
      operands: names.
      calls: computations that it calls.
      is_root: whether it is the computation's result.
      joins_slices: whether it only says that slices are one array.
    """

    name: str
    type: str
    op: str
    operands: tuple[str, ...]
    calls: tuple[str, ...]
    is_root: bool
    joins_slices: bool

    @property
    def base_op(self) -> str:
        """The operation, without the suffix of its asynchronous start."""
        return self.op.removesuffix("-start")


class Collective(NamedTuple):
    """The bytes that one collective operation moves.

    Attributes:
      op: one of `COLLECTIVES`.
      bytes: of its result on one device.
      in_loop: whether it runs in every step of a loop.
    """

    op: str
    bytes: int
    in_loop: bool


class Traffic(NamedTuple):
    """Bytes between main memory and cores of one device.

    Attributes:
      in_loops: of one pass through the body of each loop.
      outside: of everything else.
    """

    in_loops: int
    outside: int


class XlaTraffic(NamedTuple):
    """The parts of XLA's "bytes accessed", each loop's body passed once.

    Attributes:
      main: between main memory and the chip, as in `Traffic`.
      copied: written into on-chip memory ahead of use.
      again: the same bytes once more, where a copy is waited for or slices are joined;
        nothing moves.
      on_chip: between on-chip memory and the arithmetic units.
    """

    main: int
    copied: int
    again: int
    on_chip: int


class Program:
    """The computations of one compiled program."""

    def __init__(self, text: str):
        """Parses the text of `jax.stages.Compiled.as_text`."""
        self._computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        own: list[Instruction] = []
        for line in text.splitlines():
            if head := _HEAD.match(line):
                own = self._computations[head[1]] = []
                if line.startswith("ENTRY"):
                    self._entry = head[1]
            elif found := _LINE.match(line):
                own.append(_instruction(found))

    def collectives(self) -> list[Collective]:
        """All collective operations that the program runs."""
        return [
            Collective(i.base_op, _result_bytes(i), in_loop)
            for i, in_loop, _ in self._running()
            if i.base_op in COLLECTIVES and not i.op.endswith("-done")
        ]

    def traffic(self) -> Traffic:
        """The bytes that the program moves."""
        moved = [0, 0]
        for instruction, in_loop, types in self._running():
            moved[in_loop] += self._moved(instruction, types)
        return Traffic(in_loops=moved[True], outside=moved[False])

    def xla_traffic(self) -> XlaTraffic:
        """The parts of XLA's figure; their sum is near it, as its rules are."""
        main = copied = again = on_chip = 0
        for i, _, types in self._running():
            own = self._moved(i, types)
            main += own
            if i.op in _COPIES:
                copied += self._moved(i, types, _bytes) - own
            elif i.op.endswith("-done") or i.joins_slices:
                again += _bytes(i.type)
            else:
                on_chip += self._moved(i, types, _bytes) - own
        return XlaTraffic(main, copied, again, on_chip)

    def _running(self) -> Iterator[tuple[Instruction, bool, Mapping[str, str]]]:
        """Instructions, whether each is in a loop, and the types of its computation."""
        pending, seen = [(self._entry, False)], set()
        while pending:
            name, in_loop = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            own = self._computations[name]
            types = {i.name: i.type for i in own}
            for instruction in own:
                yield instruction, in_loop, types
                if instruction.op in ("while", "conditional", "call"):
                    inner = in_loop or instruction.op == "while"
                    pending += [(called, inner) for called in instruction.calls]

    def _moved(
        self,
        i: Instruction,
        types: Mapping[str, str],
        size: Callable[[str], int] | None = None,
    ) -> int:
        """The bytes of arrays that `size` counts; by default those in main memory."""
        size = size or _main_bytes
        if i.op in _NOTHING_MOVES or i.op.endswith("-done") or i.joins_slices:
            return 0
        if i.op in _COPIES:
            first, second = list(_ARRAY.finditer(i.type))[:2]
            target = first if i.op == "copy-start" else second
            ends = sum(size(array[0]) > 0 for array in (first, second))
            return _size(target) * ends
        if i.op in _TAKES_ROWS:
            return 2 * size(i.type)
        if i.op in _WRITES_ROWS:
            rows = types[i.operands[_WRITES_ROWS[i.op]]]
            return 2 * _bytes(rows) if size(i.type) else 0
        body = self._computations.get(i.calls[0], ()) if i.calls else ()
        if i.base_op in ("fusion", "async") and body:
            return self._moved_by_fusion(i, body, types, size)
        read = sum(size(types.get(name, "")) for name in i.operands)
        return read + size(i.type)

    def _moved_by_fusion(
        self,
        i: Instruction,
        body: Sequence[Instruction],
        types: Mapping[str, str],
        size: Callable[[str], int],
    ) -> int:
        inside = {one.name: one for one in body}
        parameters = [one for one in body if one.op == "parameter"]
        total, in_place = 0, 0
        for operand, parameter in zip(i.operands, parameters, strict=False):
            if not (whole := size(types.get(operand, ""))):
                continue
            users = list(_users(parameter.name, body))
            if users and all(u.op in _TAKES_ROWS for u in users):
                total += sum(_bytes(u.type) for u in users)
            elif len(users) == 1 and users[0].op in _WRITES_ROWS:
                rows = inside[users[0].operands[_WRITES_ROWS[users[0].op]]]
                if users[0].operands[0] == parameter.name or rows.name != (
                    parameter.name
                ):
                    total += 2 * min(_bytes(rows.type), whole)
                    in_place += whole
                else:
                    total += whole
            else:
                total += whole
        return total + max(size(i.type) - in_place, 0)


def _users(name: str, body: Sequence[Instruction]) -> Iterator[Instruction]:
    """Instructions that use a value, also through another view of it."""
    for one in body:
        if name in one.operands:
            if one.op in _SAME and not one.is_root:
                yield from _users(one.name, body)
            else:
                yield one


def _instruction(found: re.Match) -> Instruction:
    operands, _, attributes = found["rest"].partition(")")
    calls = _CALLS.findall(attributes)
    return Instruction(
        found["name"],
        found["type"],
        found["op"],
        tuple(re.findall(r"%([\w.\-]+)", operands)),
        tuple(name for group in calls for name in re.findall(r"%([\w.\-]+)", group)),
        found["root"] is not None,
        _JOINS in attributes,
    )


def _result_bytes(i: Instruction) -> int:
    """The arrays of a result; of an asynchronous operation only the last one."""
    arrays = [_size(array) for array in _ARRAY.finditer(i.type)]
    return max(arrays) if i.op.endswith("-start") else sum(arrays)


def _in_main(array: re.Match) -> bool:
    return not _ON_CHIP.search(array[3] or "")


def _size(array: re.Match) -> int:
    kind = array[1]
    digits = re.search(r"\d+", kind)
    if kind not in _BYTES and digits is None:
        return 0  # a token
    bits = 8 * _BYTES[kind] if kind in _BYTES else int(digits[0])
    return math.prod(int(n) for n in array[2].split(",") if n) * bits // 8


def _bytes(text: str) -> int:
    return sum(_size(array) for array in _ARRAY.finditer(text))


def _main_bytes(text: str) -> int:
    return sum(_size(a) for a in _ARRAY.finditer(text) if _in_main(a))
