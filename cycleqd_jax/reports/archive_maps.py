"""Heat maps of the archives, as PNG bytes."""

import itertools
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from cycleqd_jax.reports import drawing
from cycleqd_jax.reports.candidates import Elite
from cycleqd_jax.reports.run_data import RunData


@drawing.styled
def draw_archives(data: RunData) -> bytes:
    """One map per archive; colour is the quality of the elite in a cell.

    With two tasks a map is a strip over the other task's bins, with three a grid over
    both others'. With more, each archive has one grid per pair of other tasks, and a
    cell shows the best elite over the bins of the tasks not in the pair. Retention,
    where it is a behaviour, counts as one more task. Stars are experts, rings the
    champions the result is made of, grey cells are empty.
    """
    count, dimensions = len(data.tasks), len(_dimensions(data, data.tasks[0]))
    pairs = list(itertools.combinations(range(dimensions), min(2, dimensions)))
    wide = len(pairs)
    if wide == 1:  # all archives side by side
        height = 1.7 if dimensions == 1 else 3.5
        figure = drawing.new_figure(3.35 * count + 0.4, height)
        grid = [list(figure.subplots(1, count, squeeze=False)[0])]
        rows = [[(task, pairs[0]) for task in data.tasks]]
    else:  # an archive per row, its pairs of dimensions side by side
        figure = drawing.new_figure(2.9 * wide + 0.8, 2.9 * count)
        grid = [list(row) for row in figure.subplots(count, wide, squeeze=False)]
        rows = [[(task, pair) for pair in pairs] for task in data.tasks]
    for axes_row, row in zip(grid, rows, strict=True):
        for axes, (task, pair) in zip(axes_row, row, strict=True):
            image = _draw_map(axes, data, task, pair)
    bar = figure.colorbar(
        image, ax=[axes for row in grid for axes in row], fraction=0.03, pad=0.015
    )
    bar.set_label("score")
    bar.outline.set_visible(False)
    return drawing.to_png(figure)


def _dimensions(data: RunData, archive: str) -> list[tuple[str, Sequence[float]]]:
    """The label and range of each entry of `Elite.bins` in an archive."""
    facts = data.facts.search
    others = [task for task in data.tasks if task != archive]
    found = [(f"{task} score", facts["ranges"][task]) for task in others]
    return found + ([("retention", facts["retention"])] if "retention" in facts else [])


def project(elites: Sequence[Elite], axes: Sequence[int], bins: int) -> np.ndarray:
    """The best quality over all bins that are not on the map.

    Args:
      elites: of one archive.
      axes: which entries of `Elite.bins` are on the map: x, then y if there are two.
      bins: per dimension.

    Returns:
      `[bins or 1, bins]` float64, indexed [y, x]; NaN where no elite is.
    """
    image = np.full((bins if len(axes) == 2 else 1, bins), np.nan)
    for elite in elites:
        place = _place(elite, axes)
        image[place] = np.fmax(image[place], elite.quality)
    return image


def _place(elite: Elite, axes: Sequence[int]) -> tuple[int, int]:
    return (elite.bins[axes[1]] if len(axes) == 2 else 0, elite.bins[axes[0]])


def _draw_map(
    axes: Axes, data: RunData, task: str, columns: Sequence[int]
) -> AxesImage:
    bins, dimensions = data.facts.search["bins"], _dimensions(data, task)
    shown = [dimensions[column] for column in columns]
    elites = [elite for elite in data.elites if elite.archive == task]
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="#eef0f3")
    image = axes.imshow(
        project(elites, columns, bins),
        origin="lower",
        cmap=colours,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    _draw_lines(axes, bins, len(shown) == 2)
    champion = data.facts.aggregation.get(task)
    for elite in elites:
        y, x = _place(elite, columns)
        if elite.individual.startswith("expert/"):
            axes.plot(x, y, "*", color="white", markeredgecolor="black", markersize=9)
        if champion and elite.individual == champion.individual:
            axes.plot(
                x,
                y,
                "o",
                color="none",
                markeredgecolor=drawing.RESULT,
                markersize=14,
                markeredgewidth=2,
            )
    axes.set_title(f"archive of {task}")
    axes.set_xlabel(shown[0][0])
    axes.set_xticks(*_edge_ticks(shown[0][1], bins))
    if len(shown) == 2:
        axes.set_ylabel(shown[1][0])
        axes.set_yticks(*_edge_ticks(shown[1][1], bins))
    else:
        axes.set_yticks([])
    return image


def _draw_lines(axes: Axes, bins: int, both: bool) -> None:
    """Thin lines between cells, and no frame."""
    edges = np.arange(1, bins) - 0.5
    axes.vlines(edges, -0.5, bins - 0.5 if both else 0.5, color="white", linewidth=0.8)
    if both:
        axes.hlines(edges, -0.5, bins - 0.5, color="white", linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _edge_ticks(limits: Sequence[float], bins: int) -> tuple[list[float], list[str]]:
    """Ticks at both ends and the middle, labelled with scores."""
    places = [-0.5, bins / 2 - 0.5, bins - 0.5]
    low, high = limits
    return places, [f"{value:.2f}" for value in (low, (low + high) / 2, high)]
