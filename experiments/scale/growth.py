"""Growth of memory and step time with individuals, slots and chips, as a plot."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cycleqd_jax.reports import drawing

VARIED = ("individuals", "slots", "chips")
_PROGRAM = "decode, factored"


class Point(NamedTuple):
    """One compiled decode step.

    Attributes:
      value: of what is varied.
      gigabytes: on each chip, with what a run holds beside the program.
      milliseconds: of a step of all slots, at the chip's limits.
    """

    value: int
    gigabytes: float
    milliseconds: float


def series(found: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """By what is varied, the longest series of files that are the same otherwise.

    Args:
      found: contents of the files; those without a factored decode step are left out.
    """
    made = {}
    for varied in VARIED:
        groups: dict[str, dict[int, Point]] = {}
        for data in found:
            facts = _facts(data)
            value = facts.pop(varied)
            point = _point(data, value)
            if point is not None:
                groups.setdefault(json.dumps(facts, sort_keys=True), {})[value] = point
        longest = max(groups.values(), key=len, default={})
        if len(longest) > 1:
            made[varied] = sorted(longest.values())
    return made


def _facts(data: Mapping[str, Any]) -> dict[str, Any]:
    names = ("model", "dtype", "individuals", "slots", "length", "rank")
    chip, _, sizes = data["topology"].partition(":")
    mesh = data["mesh"]
    return {name: data[name] for name in names} | {
        "chip": chip if sizes else data["topology"],
        "chips": mesh["data"] * mesh["tensor"],
    }


def _point(data: Mapping[str, Any], value: int) -> Point | None:
    for program in data["programs"]:
        if program["name"] == _PROGRAM and program["peak_bytes"] is not None:
            seconds = program["seconds_at_roofline"]
            return Point(value, program["total_bytes"] / 1e9, 1000 * seconds)
    return None


@drawing.styled
def draw(made: Mapping[str, Sequence[Point]]) -> bytes:
    """A panel for each series: memory on the left axis, time on the right one."""
    figure = drawing.new_figure(3.2 * len(made), 3.0)
    panels = figure.subplots(1, len(made), squeeze=False)[0]
    memory, time = drawing.TASK_COLOURS[:2]
    for axes, (varied, points) in zip(panels, made.items(), strict=True):
        values = [point.value for point in points]
        axes.plot(values, [p.gigabytes for p in points], "o-", color=memory)
        other = axes.twinx()
        other.plot(values, [p.milliseconds for p in points], "s--", color=time)
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.set_xlabel(varied)
        for one, colour in ((axes, memory), (other, time)):
            one.set_ylim(0, 1.15 * one.dataLim.ymax)
            one.tick_params(axis="y", colors=colour)
        other.spines["right"].set_visible(True)
    panels[0].set_ylabel("GB on each chip", color=memory)
    other.set_ylabel("ms a step, at the limit", color=time)
    return drawing.to_png(figure)
