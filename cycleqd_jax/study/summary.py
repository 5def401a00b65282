"""The summary of a finished comparison: numbers, tables, curves.

`summary.json`, `table.md` and `curves_tokens.png` depend on results alone. Wall times
are in `times.json` and `curves_seconds.png`, and nowhere else.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cycleqd_jax import files
from cycleqd_jax.reports.statistics import mean_interval
from cycleqd_jax.study import figures, tables
from cycleqd_jax.study.results import Point, Result
from cycleqd_jax.study.settings import SUMMARY, Study
from cycleqd_jax.study.statistics import Layout, estimate, holm
from cycleqd_jax.tasks.base import Split, Task

KINDS = ("trained", "held_out")  # of templates: in `train`, and left out of it


def write_summary(
    study: Study, tasks: Sequence[Task], results: Mapping[str, Mapping[int, Result]]
) -> dict[str, Any]:
    """Writes the summary folder.

    Args:
      study: the comparison; all of its runs are finished.
      tasks: with their problems.
      results: by method and seed, all of them.

    Returns:
      What is in `summary.json`, and under "times" what is in `times.json`.
    """
    summary = make_summary(study, tasks, results)
    times = _times(results)
    folder = study.folder / SUMMARY
    files.write_json(folder / "summary.json", summary)
    files.write_text(folder / "table.md", tables.make_markdown(summary))
    files.write_json(folder / "times.json", times)
    files.write_bytes(folder / "curves_tokens.png", figures.draw_tokens(summary))
    files.write_bytes(
        folder / "curves_seconds.png", figures.draw_seconds(summary, times)
    )
    return summary | {"times": times}


def make_summary(
    study: Study, tasks: Sequence[Task], results: Mapping[str, Mapping[int, Result]]
) -> dict[str, Any]:
    """The content of `summary.json`."""
    problems = [(task, p) for task in tasks for p in task.problems(Split.TEST)]
    layout, kinds = make_layout(tasks), _kinds(problems)
    scores = {
        name: np.asarray(
            [[r.scores[t.name][p.id] for t, p in problems] for r in by_seed.values()]
        )
        for name, by_seed in results.items()
    }
    config = study.config
    reference, count = scores[config.reference], config.resamples
    pairs = {
        name: estimate(own - reference, layout, resamples=count)
        for name, own in scores.items()
    }
    rivals = [name for name in pairs if name != config.reference]
    corrected = holm({name: pairs[name].p_value for name in rivals})
    methods, everything = {}, np.ones(len(problems), bool)
    goal = _mean_curve(results[config.reference].values())[-1].held_out
    for name, own in scores.items():
        pair, by_seed = pairs[name], results[name]
        methods[name] = _entry(own, layout, everything, count) | {
            "tasks": {
                task.name: _entry(own, layout, layout.tasks == k, count)
                for k, task in enumerate(tasks)
            },
            "templates": {
                kind: _entry(own, layout, kinds == kind, count)
                for kind in KINDS
                if (kinds == kind).any()
            },
            "difference": pair.value,
            "difference_interval": [pair.low, pair.high],
            "difference_standard_error": pair.standard_error,
            "p_value": corrected.get(name, 1.0),
            "p_value_uncorrected": pair.p_value,
            "tokens": _mean_of([r.tokens for r in by_seed.values()]),
            "tokens_to_reference": _tokens_to(goal, by_seed.values()),
            "children": _mean_of([r.children for r in by_seed.values()]),
            "hypervolume": _mean_of([r.hypervolume for r in by_seed.values()]),
            "coverage": _coverages(list(by_seed.values())),
            "seeds": {
                str(seed): {
                    "mean": _mean(scores[name][i], layout),
                    "tokens": result.tokens,
                    "curve": [point._asdict() for point in result.curve],
                }
                for i, (seed, result) in enumerate(by_seed.items())
            },
        }
    return {
        "seeds": list(config.seeds),
        "reference": config.reference,
        "tasks": [task.name for task in tasks],
        "problems": {t.name: len(t.problems(Split.TEST)) for t in tasks},
        "clusters": {
            task.name: len(set(layout.templates[layout.tasks == k].tolist()))
            for k, task in enumerate(tasks)
        },
        "resamples": count,
        "population": config.population,
        "methods": methods,
        "remarks": _remarks(methods, config.reference, config.tolerance),
    }


def make_layout(tasks: Sequence[Task]) -> Layout:
    """The layout of `test`; a problem without a template is a template of its own."""
    places: dict[tuple[int, str], int] = {}
    of_task, of_template = [], []
    for k, task in enumerate(tasks):
        for problem in task.problems(Split.TEST):
            name = str(problem.data.get("template", f"problem {problem.id}"))
            of_task.append(k)
            of_template.append(places.setdefault((k, name), len(places)))
    return Layout(np.asarray(of_task), np.asarray(of_template))


def _kinds(problems: Sequence[tuple[Task, Any]]) -> np.ndarray:
    """The kind of each problem, one of `KINDS`; empty where the task does not tell."""
    found = []
    for task, problem in problems:
        tell = getattr(task, "is_held_out", None)
        found.append("" if tell is None else KINDS[bool(tell(problem))])
    return np.asarray(found)


def _entry(
    scores: np.ndarray, layout: Layout, mask: np.ndarray, resamples: int
) -> dict[str, Any]:
    """The mean score on some problems, and its interval, which ends at 0 and 1."""
    scores, layout = scores[:, mask], layout.subset(mask)
    found = estimate(scores, layout, resamples=resamples)
    interval = [max(0.0, found.low), min(1.0, found.high)]
    if found.standard_error == 0:  # resamples of equal scores are equal
        of_task = [layout.tasks == k for k in range(layout.tasks.max() + 1)]
        means = [float(scores[:, own].mean()) for own in of_task]
        interval = list(mean_interval(means, [int(own.sum()) for own in of_task]))
    return {"mean": found.value, "interval": interval}


def _mean(scores: np.ndarray, layout: Layout) -> float:
    means = [scores[layout.tasks == k].mean() for k in range(layout.tasks.max() + 1)]
    return float(np.mean(means))


def _mean_curve(results: Iterable[Result]) -> list[Point]:
    """The mean of curves, point by point, as far as the shortest one goes."""
    return [
        Point(*np.mean(points, axis=0).tolist())
        for points in zip(*(r.curve for r in results), strict=False)
    ]


def _tokens_to(goal: float, results: Iterable[Result]) -> float | None:
    """Tokens at which the mean curve reaches a held-out mean; None if it never does."""
    reached = (p.tokens for p in _mean_curve(results) if p.held_out >= goal)
    return next(reached, None)


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _coverages(results: Sequence[Result]) -> dict[str, float] | None:
    pairs = [r.coverage for r in results if r.coverage is not None]
    if not pairs:
        return None
    diverse, samples = np.mean(pairs, axis=0).tolist()
    return {"diverse": diverse, "samples": samples}


def _remarks(
    methods: Mapping[str, Mapping[str, Any]], reference: str, tolerance: float
) -> list[str]:
    """A sentence about each search whose budget is another than the reference's."""
    own, remarks = methods[reference]["tokens"], []
    for name, entry in methods.items():
        tokens, children = entry["tokens"], entry["children"]
        if not children or abs(tokens - own) <= tolerance * own:
            continue
        equal = max(1, round(children * own / tokens))
        remarks.append(
            f"{name} took {tokens:.0f} tokens, {tokens / own:.2f} times as many as "
            f"{reference}; its {children:.0f} children should be about {equal}."
        )
    return remarks


def _times(
    results: Mapping[str, Mapping[int, Result]],
) -> dict[str, dict[str, Any]]:
    """Wall times by method: the mean, and by seed up to each point of the curve."""
    found: dict[str, dict[str, Any]] = {}
    for name, by_seed in results.items():
        curves = {str(s): list(r.batch_seconds) for s, r in by_seed.items() if r.curve}
        mean = _mean_of([r.seconds for r in by_seed.values()])
        found[name] = {"seconds": mean, "seeds": curves}
    return found
