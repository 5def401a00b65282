"""Curves of a comparison: held-out means against tokens and seconds, as PNG bytes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cycleqd_jax.reports import drawing

_COLOURS = (drawing.RESULT, *drawing.TASK_COLOURS, drawing.INK, drawing.MUTED)
_DASHES = ("-", "--", ":", "-.")


@drawing.styled
def draw_tokens(summary: Mapping[str, Any]) -> bytes:
    """Curves against tokens; results on `test` where each method ends.

    Args:
      summary: what is in `summary.json`.
    """
    return _draw(summary, "tokens through the model", lambda _, points: [
        point["tokens"] for point in points
    ], lambda name: summary["methods"][name]["tokens"])  # fmt: skip


@drawing.styled
def draw_seconds(summary: Mapping[str, Any], times: Mapping[str, Any]) -> bytes:
    """Curves against wall time.

    Args:
      summary: what is in `summary.json`.
      times: what is in `times.json`.
    """

    def spent(place: tuple[str, str], points: Sequence[Any]) -> list[float]:
        name, seed = place
        # A killed process may have lost the time of a batch.
        seconds = times[name]["seeds"][seed][: len(points)]
        return [*seconds, *[seconds[-1]] * (len(points) - len(seconds))]

    return _draw(summary, "seconds", spent, lambda name: times[name]["seconds"])


def _draw(
    summary: Mapping[str, Any],
    label: str,
    spent: Callable[[tuple[str, str], Sequence[Any]], list[float]],
    total: Callable[[str], float | None],
) -> bytes:
    figure = drawing.new_figure(7.0, 4.2)
    axes = figure.subplots()
    for index, (name, entry) in enumerate(summary["methods"].items()):
        style = {
            "color": _COLOURS[index % len(_COLOURS)],
            "linestyle": _DASHES[index // len(_COLOURS) % len(_DASHES)],
        }
        curves = [
            (spent((name, seed), cell["curve"]), [p["held_out"] for p in cell["curve"]])
            for seed, cell in entry["seeds"].items()
            if cell["curve"]
        ]
        if curves:
            length = min(len(ys) for _, ys in curves)
            xs = np.mean([x[:length] for x, _ in curves], axis=0)
            ys = np.mean([y[:length] for _, y in curves], axis=0)
            axes.plot(
                xs, ys, drawstyle="steps-post", linewidth=1.5, label=name, **style
            )
        low, high = entry["interval"]
        place = total(name) or 0.0
        axes.plot([place, place], [low, high], linewidth=1.0, color=style["color"])
        axes.plot(
            place,
            entry["mean"],
            "o",
            color=style["color"],
            label=None if curves else name,
        )
    axes.set_xlabel(label)
    axes.set_ylabel("mean score")
    axes.set_title(
        "lines: best so far, chosen on half of optimise, scored on the other half\n"
        "dots: result on test with 95 % interval",
        loc="left",
        fontsize=8.0,
        fontweight="normal",
    )
    axes.grid(axis="y", color=drawing.FAINT)
    figure.legend(loc="outside right upper")
    return drawing.to_png(figure)
