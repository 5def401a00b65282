"""A table for a document, from the JSON files of `scale_check`."""

from collections.abc import Mapping, Sequence
from typing import Any

_HEADINGS = (
    "model, slice",
    "run",
    "program",
    "arguments",
    "the rest",
    "held beside",
    "in all",
    "bytes moved",
    "of the needed",
    "by XLA",
    "at the limit",
    "sent",
)
_TEXTS = 3  # columns; the others are numbers


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """A row for each program of each file, in their order.

    Args:
      found: contents of the files.
    """
    lines = [
        "| " + " | ".join(_HEADINGS) + " |",
        "|" + " --- |" * _TEXTS + " ---: |" * (len(_HEADINGS) - _TEXTS),
    ]
    lines += [
        "| " + " | ".join(_cells(data, program)) + " |"
        for data in found
        for program in data["programs"]
    ]
    return "\n".join(lines) + "\n"


def _cells(data: Mapping[str, Any], program: Mapping[str, Any]) -> list[str]:
    mesh = data["mesh"]
    layers = data["layers_compiled"]
    if layers != "all" and not program["layers_are_all"]:
        layers = f"from {layers[0]} and {layers[1]}"
    else:
        layers = "all"
    name, remark = program["name"], program["remark"]
    cells = [
        f"{data['model'].rpartition('/')[2]}, {data['topology']} "
        f"({mesh['data']} x {mesh['tensor']})",
        f"{data['individuals']} individuals, {data['slots']} x {data['length']}, rank "
        f"{data['rank']}",
        f"{name}{f' ({remark})' if remark else ''}; {layers} layers",
    ]
    if program["peak_bytes"] is None:
        return [*cells, *[""] * 3, "does not fit", *[""] * 5]
    needed, sent = program["bytes_needed"], program["collectives"]
    moved = program["bytes_accessed"]
    talk = ", ".join(
        f"{kind['count']:.0f} {op}, {_size(kind['bytes'])}" for op, kind in sent.items()
    )
    return [
        *cells,
        _size(program["argument_bytes"]),
        _size(program["temporary_bytes"]),
        _size(program["held_bytes"]),
        _size(program["total_bytes"]) + ("" if program["fits"] else ", too much"),
        _size(moved),
        f"{moved / needed:.2f}" if needed else "",
        _size(program["bytes_accessed_by_xla"]),
        _time(program["seconds_at_roofline"]),
        talk,
    ]


def _size(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
