"""Tasks that the search did not see: their numbers, and their section of the page."""

from collections.abc import Mapping
from typing import Any

from cycleqd_jax.reports import statistics
from cycleqd_jax.reports.markup import table, text
from cycleqd_jax.reports.run_data import RunData
from cycleqd_jax.runs.names import BASE
from cycleqd_jax.runs.out_of_domain import SPLIT


def numbers(data: RunData) -> dict[str, dict[str, dict[str, Any]]]:
    """Task -> model -> its score on the task's `test` problems, ready for JSON.

    Each has `score`, `interval` (95 %), `problems`, `against_base` (the difference,
    paired by problem, with `standard_error`) and the means of further `metrics`.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for task, models in data.out_of_domain.items():
        for model, scores in models.items():
            values = list(scores.values())
            gap = statistics.paired_difference(scores, models[BASE])
            found.setdefault(task, {})[model] = {
                "score": statistics.mean(values),
                "interval": list(statistics.score_interval(values)),
                "problems": len(values),
                "against_base": gap.difference,
                "standard_error": gap.standard_error,
                "metrics": data.metrics.get(model, {}).get(SPLIT, {}).get(task, {}),
            }
    return found


def section(report: Mapping[str, Any]) -> str:
    """A section with one table per task; empty where a run has none."""
    parts = []
    for task, models in report["out_of_domain"].items():
        rows_of = models.values()
        names = list(dict.fromkeys(n for row in rows_of for n in row["metrics"]))
        rows = [
            [
                text(model),
                f"<td class='best'>{row['score']:.3f}<small>{row['interval'][0]:.2f} "
                f"&ndash; {row['interval'][1]:.2f}</small></td>",
                f"{row['against_base']:+.3f}",
                f"{row['standard_error']:.3f}",
                *(_cell(row["metrics"].get(name)) for name in names),
                str(row["problems"]),
            ]
            for model, row in models.items()
        ]
        header = ["model", "score", "against the base", "standard error", *names]
        shown = table([*header, "problems"], rows, marked=[report["result"]])
        parts.append(f"<h3>{text(task)}</h3>{shown}")
    if not parts:
        return ""
    return (
        '<section><h2>Out of domain</h2><p class="note">Tasks that the search did not '
        "see: no model was chosen by them. Against the base: the mean difference, "
        "paired by problem.</p>"
        f"{''.join(parts)}</section>"
    )


def _cell(mean: float | None) -> str:
    return "&ndash;" if mean is None else f"{mean:.3f}"
