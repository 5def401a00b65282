"""What the harness found, as rows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_WORDS = ("name", "alias", "sample_len", "sample_count")  # of results, no metrics


class Score(NamedTuple):
    """One metric of one task.

    Attributes:
      task: the task's or group's name.
      metric: its name, with the filter's where there is one: "exact_match[strict]".
      value: of it.
      stderr: its standard error, or None.
      higher_is_better: False for perplexities and the like, None where unknown.
      problems: how many it is of.
      is_part: whether it is of a task inside the group that was asked for.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    higher_is_better: bool | None
    problems: int
    is_part: bool


def retention(value: float, base: float) -> float | None:
    """A score relative to the base model's; None where the base's is 0."""
    return value / base if base else None


def task_scores(name: str, results: Mapping[str, Any]) -> list[Score]:
    """The metrics of what was asked for first, then those of its parts."""
    found = results["results"]
    # Where a group has no score of its own, those of its parts are what there is.
    has_own = name in results.get("groups", {}) or name in results["configs"]
    scores = []
    for task, metrics in found.items():
        is_part = has_own and task != name
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")
            if key in _WORDS or metric.endswith("_stderr") or not _is_number(value):
                continue
            stderr = metrics.get(f"{metric}_stderr,{kind}")
            better = results["higher_is_better"].get(task, {}).get(metric)
            scores.append(
                Score(
                    task,
                    metric if kind in ("", "none") else f"{metric}[{kind}]",
                    float(value),
                    float(stderr) if _is_number(stderr) else None,
                    better,
                    int(metrics.get("sample_len", 0)),
                    is_part,
                )
            )
    return sorted(scores, key=lambda score: score.is_part)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
