"""Figures of scores, progress and lineage, as PNG bytes."""

import itertools
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from cycleqd_jax.reports import drawing, lineage
from cycleqd_jax.reports.run_data import RunData
from cycleqd_jax.runs.names import expert_name

_PROGRESS = {  # kind of metrics column -> title of its panel
    "best/": "best score",
    "coverage/": "cells taken (share)",
    "qd_score/": "QD score (sum of scores)",
}


@drawing.styled
def draw_scores(report: Mapping[str, Any], split: str) -> bytes:
    """Score and 95 % interval of every model on `split`; per task and their mean."""
    models, tasks = report["models"], report["tasks"]
    names = list(models)
    figure = drawing.new_figure(2.2 + 2.0 * (len(tasks) + 1), 0.7 + 0.3 * len(names))
    panels = figure.subplots(1, len(tasks) + 1, sharey=True)
    for axes, column in zip(panels, [*tasks, "mean"], strict=True):
        for row, name in enumerate(names):
            entry = models[name][split]
            low, high = entry["interval"][column]
            is_result = name == report["result"]
            colour = drawing.RESULT if is_result else drawing.INK
            axes.plot([low, high], [row, row], color=colour, linewidth=1.4)
            axes.plot(entry[column], row, "o", color=colour, markersize=5)
        axes.axvline(
            models[report["result"]][split][column],
            color=drawing.RESULT,
            linewidth=0.8,
            linestyle=":",
        )
        axes.set_title("mean over skills" if column == "mean" else column)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        drawing.score_axis(axes)
    panels[0].set_yticks(range(len(names)), names, color=drawing.INK)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return drawing.to_png(figure)


@drawing.styled
def draw_progress(data: RunData) -> bytes:
    """The search's metrics after each child, one panel per kind of number.

    CycleQD measures best quality, coverage and QD score of every archive; of a search
    that measures nothing the best score so far is shown. A dotted line is what the
    skill's own expert scored on `optimise`.
    """
    measured = data.children[0].progress if data.children else {}
    kinds = [
        kind
        for kind in _PROGRESS
        if all(kind + task in measured for task in data.tasks)
    ]
    kinds = kinds or ["best/"]
    figure = drawing.new_figure(0.6 + 3.2 * max(len(kinds), 2), 2.9)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    generations = [child.generation for child in data.children]
    for axes, kind in zip(panels, kinds, strict=True):
        for index, task in enumerate(data.tasks):
            values = _progress(data, kind, task)
            colour = drawing.TASK_COLOURS[index]
            axes.plot(
                generations,
                values,
                color=colour,
                label=task,
                drawstyle="steps-post",
                linewidth=1.7,
                marker="o" if len(values) == 1 else None,
            )
            own = data.scores.get(expert_name(task), {}).get("optimise", {}).get(task)
            if kind == "best/" and own:
                level = sum(own.values()) / len(own)
                axes.axhline(level, color=colour, linestyle=":", linewidth=1)
        axes.set_title(_PROGRESS[kind])
        axes.set_xlabel("children evaluated")
        axes.grid(axis="y", color=drawing.FAINT)
        axes.set_axisbelow(True)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0, top=1.03 if kind == "best/" else None)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(data.tasks),
    )
    return drawing.to_png(figure)


def _progress(data: RunData, kind: str, task: str) -> list[float]:
    """One number per child: as the search measured it, else the best score so far."""
    if data.children and kind + task in data.children[0].progress:
        return [child.progress[kind + task] for child in data.children]
    scores = (c.scores[task] if c.complete else 0.0 for c in data.children)
    return list(itertools.accumulate(scores, max))


@drawing.styled
def draw_lineage(data: RunData) -> bytes:
    """Ancestors of the result: experts on the left, the result on the right.

    A child has the colour of the skill whose archive it was bred in.
    """
    graph = lineage.make_lineage(data)
    tallest = max(len(column) for column in graph.columns)
    places = _places(graph, tallest)
    width = max(6.0, 1.45 * len(graph.columns))
    figure = drawing.new_figure(width, 0.7 + 0.42 * tallest)
    axes = figure.subplots()
    colours = _node_colours(data)
    for parent, child in graph.edges:
        _draw_edge(axes, places[parent], places[child], colours[parent])
    for name, (x, y) in places.items():
        result = name == data.facts.result
        expert = name.startswith("expert/")
        axes.text(
            x,
            y,
            name,
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold" if result or expert else "normal",
            color="white" if result or expert else drawing.INK,
            bbox={
                "boxstyle": "round,pad=0.32",
                "facecolor": colours[name] if result or expert else "white",
                "edgecolor": colours[name],
                "linewidth": 1.5,
            },
        )
    axes.set_xlim(-0.6, len(graph.columns) - 0.4)
    axes.set_ylim(-0.6, tallest - 0.4)
    axes.set_axis_off()
    if graph.left_out:
        axes.set_title(
            f"{graph.left_out} older ancestors are not shown",
            fontweight="normal",
            color=drawing.MUTED,
        )
    return drawing.to_png(figure)


def _places(graph: lineage.Lineage, tallest: int) -> dict[str, tuple[float, float]]:
    """Name -> (column, height); each is near the mean height of its parents."""
    parents: dict[str, list[str]] = {}
    for parent, child in graph.edges:
        parents.setdefault(child, []).append(parent)
    heights: dict[str, float] = {}

    def wish(name: str) -> float:
        above = [heights[parent] for parent in parents.get(name, ())]
        return sum(above) / len(above) if above else 0.0

    places = {}
    for x, column in enumerate(graph.columns):
        # The first column keeps its order from top to bottom; sorting is stable.
        ordered = column[::-1] if x == 0 else sorted(column, key=wish)
        step = tallest / len(ordered)
        for index, name in enumerate(ordered):
            heights[name] = step * (index + 0.5) - 0.5
            places[name] = (float(x), heights[name])
    return places


def _node_colours(data: RunData) -> dict[str, str]:
    by_task = dict(zip(data.tasks, drawing.TASK_COLOURS, strict=False))
    return (
        {expert_name(e): by_task.get(e, drawing.MUTED) for e in data.experts}
        | {
            child.name: by_task.get(child.active_task, drawing.MUTED)
            for child in data.children
        }
        | {data.facts.result: drawing.RESULT}
    )


def _draw_edge(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str
) -> None:
    axes.annotate(
        "",
        xy=end,
        xytext=start,
        zorder=0,
        arrowprops={
            "arrowstyle": "-",
            "color": colour,
            "alpha": 0.55,
            "linewidth": 1.3,
            "connectionstyle": "arc3,rad=0.06",
        },
    )
