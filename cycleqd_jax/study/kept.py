"""The shares of experts' scores that merged models keep, with their summary."""

import base64
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports import markup
from cycleqd_jax.runs import reading
from cycleqd_jax.runs.names import BASE, expert_name
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.search.merges import SCALED, UNIFORM
from cycleqd_jax.study.segmentation import ALL, CONDITIONED, SUMMARY, Group
from cycleqd_jax.study.similarity import compare_pairs, draw_pairs, read_pair
from cycleqd_jax.tasks.base import Split

RESULT = "cycleqd"
_MODELS = (RESULT, UNIFORM, SCALED, CONDITIONED, BASE)
_LEAST_PAIRS = 4  # so that a correlation has an interval


def summarise(groups: Sequence[Group], resamples: int) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
      groups: whose runs are finished.
      resamples: of the test images of each data set, shared by all models of a run.

    Raises:
      BadInputError: a run is not finished or is damaged, or has no `test` images.
    """
    pairs = [pathlib.Path(g.search.run_dir) for g in groups if g.name != ALL]
    found: dict[str, Any] = {
        "resamples": resamples,
        "runs": {group.name: _kept(group, resamples) for group in groups},
    }
    if len(pairs) >= _LEAST_PAIRS:
        found["similarity"] = compare_pairs([read_pair(path) for path in pairs])
    return found


def write_summary(
    summary: Mapping[str, Any], groups: Sequence[Group], folder: pathlib.Path
) -> pathlib.Path:
    """Writes numbers, table, pictures and a page; returns the folder.

    Args:
      summary: from `summarise`.
      groups: the same.
      folder: of all runs.
    """
    place = folder / SUMMARY
    place.mkdir(parents=True, exist_ok=True)
    report = pathlib.Path(groups[-1].search.run_dir) / "report"
    pictures = {"masks.png": (report / "masks.png").read_bytes()}
    if "similarity" in summary:
        pictures["similarity.png"] = draw_pairs(summary["similarity"])
    for name, png in pictures.items():
        files.write_bytes(place / name, png)
    files.write_json(place / "summary.json", dict(summary))
    titles, rows = table_rows(summary)
    lines = [titles, ["---"] * len(titles), *rows]
    text = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    files.write_text(place / "table.md", f"{text}\n\n{_remark(summary)}\n")
    files.write_text(place / "summary.html", _page(summary, pictures))
    return place


def table_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: a row per group, shares in percent with 95 % intervals."""
    rows = []
    for name, entry in summary["runs"].items():
        kept = entry["kept"]
        each = ", ".join(
            f"{_percent(kept[RESULT][task])} {task.removeprefix('pocket_')}"
            for task in entry["tasks"]
        )
        rows.append([name, each, *(_percent(kept[m]["mean"]) for m in _MODELS)])
    return ["experts", "kept of each", *_MODELS], rows


def _kept(group: Group, resamples: int) -> dict[str, Any]:
    """Shares of one group: model -> task or "mean" -> value, low, high."""
    opened = open_run(group.search.run_dir, finished=True)
    closed = open_run(group.closed_form.run_dir, finished=True)
    owns = {task: expert_name(task) for task in opened.tasks}
    result = opened.facts.result
    scores = reading.read_scores(
        opened.path, [result, UNIFORM, SCALED, BASE, *owns.values()]
    )
    scores[RESULT] = scores[result]
    conditioned = closed.facts.result
    scores[CONDITIONED] = reading.read_scores(closed.path, [conditioned])[conditioned]
    rng, drawn = np.random.default_rng(0), {}
    own = {}
    for task, expert in owns.items():
        values = scores[expert].get(str(Split.TEST), {}).get(task)
        if not values:
            raise reading.unfinished(opened.path, f"no test score of {expert}")
        problems = sorted(values)
        picks = rng.integers(0, len(problems), (resamples, len(problems)))
        own[task] = float(np.mean([values[p] for p in problems]))
        for model in (*_MODELS, expert):
            row = scores[model][str(Split.TEST)][task]
            ordered = np.asarray([row[p] for p in problems])
            if model == expert and not ordered.any():
                raise BadInputError(
                    f"{opened.path}: {expert} scores 0 on all test images of {task}, "
                    "so there is nothing to keep; give another expert."
                )
            drawn[model, task] = ordered.mean(), ordered[picks].mean(axis=1)
    kept: dict[str, Any] = {}
    for model in _MODELS:
        ratios = [
            [
                a / np.where(b > 0, b, np.nan)
                for a, b in zip(drawn[model, t], drawn[e, t], strict=True)
            ]
            for t, e in owns.items()
        ]
        kept[model] = {
            task: _interval(*pair) for task, pair in zip(owns, ratios, strict=True)
        }
        values, samples = zip(*ratios, strict=True)
        kept[model]["mean"] = _interval(np.mean(values), np.mean(samples, axis=0))
    return {"tasks": list(owns), "experts_own": own, "kept": kept}


def _interval(value: float, samples: np.ndarray) -> dict[str, float]:
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _percent(share: Mapping[str, float]) -> str:
    value, low, high = (100 * share[key] for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _remark(summary: Mapping[str, Any]) -> str:
    text = (
        "Percent of the experts' own test scores that a merged model keeps, as mean "
        "over its experts; 95 % intervals by "
        f"{summary['resamples']} resamples of the test images."
    )
    if "similarity" in summary:
        r = summary["similarity"]["correlation"]["kept"]
        text += (
            f" Correlation of model similarity with the share kept: {r['value']:.2f} "
            f"[{r['low']:.2f}, {r['high']:.2f}] over "
            f"{len(summary['similarity']['pairs'])} pairs."
        )
    return text


def _page(summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    titles, rows = table_rows(summary)
    cells = [[markup.text(cell) for cell in row] for row in rows]
    shown = "".join(
        f'<img alt="{name}" src="data:image/png;base64,'
        f'{base64.b64encode(png).decode("ascii")}">'
        for name, png in pictures.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        "<title>Merged segmentation experts</title>"
        "<style>body{font:16px system-ui;margin:2em}td,th{padding:4px 10px;"
        "text-align:right}td:first-child,th:first-child{text-align:left}"
        "img{display:block;max-width:100%;margin:1em 0}</style>"
        f"<h1>Merged segmentation experts</h1>{markup.table(titles, cells)}"
        f"<p>{markup.text(_remark(summary))}</p>{shown}</html>\n"
    )
