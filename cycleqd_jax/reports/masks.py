"""A figure of masks side by side: the truth, the base, the experts, merged models."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports import drawing
from cycleqd_jax.reports.run_data import RunData
from cycleqd_jax.runs import reading
from cycleqd_jax.runs.names import BASE, expert_name
from cycleqd_jax.runs.tasks import make_tasks
from cycleqd_jax.search.merges import UNIFORM
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.segmentation import mask_text
from cycleqd_jax.tasks.segmentation.base import Example

_SHOWN = 2  # images of each data set


@drawing.styled
def draw_masks(data: RunData, run: str | pathlib.Path) -> bytes | None:
    """The first `test` images of each data set, a row each; None without `test`.

    Where the data are not on this machine, images and true masks are left out.

    Args:
      data: of a run of segmentation models.
      run: its folder.
    """
    own = [expert_name(expert) for expert in data.experts]
    models = [BASE, *own, UNIFORM, data.facts.result]
    tasks = data.scores[data.facts.result].get(str(Split.TEST), {})
    shown = [(task, p) for task in tasks for p in list(tasks[task])[:_SHOWN]]
    if not shown:
        return None
    problems = [problem for _, problem in shown]
    found = {name: _texts(run, name, problems) for name in models}
    examples = _examples(data, shown)
    columns = [*(["image", "truth"] if examples else []), *models]
    figure = drawing.new_figure(1.15 * len(columns), 1.2 * len(shown) + 0.4)
    panels = figure.subplots(len(shown), len(columns), squeeze=False)
    for row, (task, problem) in zip(panels, shown, strict=True):
        row[0].set_ylabel(task.replace("_", "\n", 1), fontsize=6)
        places = iter(row)
        if examples:
            example = examples[problem]
            _show(next(places), example.image)
            _show(next(places), example.mask)
        for name, axes in zip(models, places, strict=True):
            _show(axes, mask_text.from_text(found[name][problem]))
            score = data.scores[name][str(Split.TEST)][task][problem]
            axes.set_xlabel(f"{score:.2f}", labelpad=2)
    for axes, title in zip(panels[0], columns, strict=True):
        axes.set_title(title.replace("expert/", "expert\n"), fontsize=7)
    return drawing.to_png(figure)


def _texts(
    run: str | pathlib.Path, name: str, problems: Sequence[str]
) -> Mapping[str, str]:
    """Problem -> the mask of one model, as text."""
    rows: list[dict[str, Any]] = reading.read_replies(
        pathlib.Path(run), [name], str(Split.TEST), problems
    )
    return {row["problem"]: row["answer"] for row in rows}


def _examples(
    data: RunData, shown: Sequence[tuple[str, str]]
) -> Mapping[str, Example] | None:
    """Problem -> image and truth; None if the data are not here."""
    config = data.config
    try:
        tasks = make_tasks(config.tasks, config.problems, config.task_settings)
        known = {
            problem.id: (task, problem)
            for task in tasks
            for problem in task.problems(Split.TEST)
        }
        pairs = {id: known[id] for _, id in shown}
        return {id: task.example(problem) for id, (task, problem) in pairs.items()}
    except (BadInputError, KeyError):
        return None


def _show(axes: Axes, picture: np.ndarray) -> None:
    if picture.dtype == bool:
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
