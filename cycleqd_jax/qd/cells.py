"""From a score to its bin: exact, on the host, in float64.

    bin = digitize(score, linspace(low, high, bins + 1), right=True) - 1

clipped to 0..bins - 1. A score on an edge belongs to the LOWER bin. QDax's search for
the nearest centroid rounds, and for real-valued centroids it does not always agree
(9/25 on [0, 0.45]). It is therefore given bin indices (see `archives.py`).

Source: CycleQD (arXiv 2410.14735) for the relative ranges; clipping is ours.
"""

import math
from collections.abc import Sequence

import numpy as np

from cycleqd_jax.errors import BadInputError

Range = tuple[float, float]  # lower end of the first bin, upper end of the last

LOW_SHARE = 0.85  # of the weakest expert's score
HIGH_SHARE = 1.15  # of the strongest expert's score


def relative_ranges(expert_scores: np.ndarray) -> tuple[Range, ...]:
    """Ranges from 85 % of the weakest expert's score to 115 % of the strongest's.

    Args:
      expert_scores: float64 `[experts, K]` in [0, 1].

    Returns:
      One range per task. An upper end above 1 becomes 1; a range without width becomes
      [0, 1].

    Raises:
      ValueError: a score is missing, not finite, or outside [0, 1].
    """
    scores = np.asarray(expert_scores, np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(
            f"expert_scores: expected shape [experts, tasks], got {list(scores.shape)}."
        )
    for row in scores:
        check_scores(row, row.size)
    ranges = []
    for column in scores.T:
        low = LOW_SHARE * float(column.min())
        high = min(HIGH_SHARE * float(column.max()), 1.0)
        ranges.append((low, high) if high > low else (0.0, 1.0))
    return tuple(ranges)


def retention_range(retention: Sequence[float]) -> Range:
    """The range of retention: `relative_ranges` of that of all experts."""
    return relative_ranges(np.asarray(retention, np.float64)[:, None])[0]


def fixed_ranges(
    ranges: Sequence[Sequence[float]], num_tasks: int
) -> tuple[Range, ...]:
    """Checks the ranges of the settings, one `[low, high]` per task.

    Raises:
      BadInputError: their number is not K, or one is not `low < high`.
    """
    if len(ranges) != num_tasks:
        raise BadInputError(
            f"cell_range: expected one [low, high] for each of {num_tasks} tasks, got "
            f"{len(ranges)}."
        )
    checked = []
    for pair in ranges:
        if len(pair) != 2 or not all(map(math.isfinite, pair)) or pair[0] >= pair[1]:
            raise BadInputError(
                f"cell_range: expected [low, high] with low below high, got "
                f"{list(pair)}."
            )
        checked.append((float(pair[0]), float(pair[1])))
    return tuple(checked)


def bin_index(score: float, score_range: Range, bins: int) -> int:
    """The bin of one score.

    Args:
      score: a Python float; it must not have been rounded to float32.
      score_range: lower end of the first bin and upper end of the last. Scores outside
        belong to the first or the last bin.
      bins: number of bins, >= 1.

    Returns:
      0 to `bins - 1`.
    """
    return int(bin_indices(np.float64(score), score_range, bins))


def bin_indices(scores: np.ndarray, score_range: Range, bins: int) -> np.ndarray:
    """`bin_index` of many scores: float64 of any shape -> int64 of the same shape.

    The edges are the float64 values of `numpy.linspace`, and comparisons are exact.
    """
    edges = np.linspace(score_range[0], score_range[1], bins + 1)
    return np.clip(np.digitize(scores, edges, right=True) - 1, 0, bins - 1)


def behaviour_bins(
    scores: Sequence[float], ranges: Sequence[Range], bins: int, task: int
) -> tuple[int, ...]:
    """One individual's bins in archive `task`: those of all other tasks, in order.

    Args:
      scores: K scores, one per task; may be followed by further behaviours.
      ranges: as many ranges.
      bins: number of bins per behaviour.
      task: the archive, 0-based.
    """
    return tuple(
        bin_index(float(score), score_range, bins)
        for other, (score, score_range) in enumerate(zip(scores, ranges, strict=True))
        if other != task
    )


def check_scores(scores: Sequence[float], num_tasks: int) -> tuple[float, ...]:
    """Returns the scores as K Python floats.

    Raises:
      ValueError: their number is not K, or one is not a number in [0, 1].
    """
    values = tuple(float(score) for score in scores)
    if len(values) != num_tasks or not all(0.0 <= value <= 1.0 for value in values):
        raise ValueError(
            f"scores: expected {num_tasks} numbers in [0, 1], one per task, got "
            f"{list(values)}."
        )
    return values


def check_smooth(smooth: Sequence[float] | None, num_tasks: int) -> tuple[float, ...]:
    """Returns smooth scores as K Python floats, NaN where there is none.

    Raises:
      ValueError: their number is not K, or one is infinite.
    """
    if smooth is None:
        return (math.nan,) * num_tasks
    values = tuple(float(score) for score in smooth)
    if len(values) != num_tasks or any(math.isinf(value) for value in values):
        raise ValueError(
            f"smooth: expected {num_tasks} finite numbers or NaN, one per task, got "
            f"{list(values)}."
        )
    return values


def check_retention(retention: float | None) -> float:
    """Returns a retention as a Python float.

    Raises:
      ValueError: it is None, or no number in [0, 1].
    """
    if retention is None or not 0.0 <= retention <= 1.0:
        raise ValueError(f"retention: expected a number in [0, 1], got {retention}.")
    return float(retention)
