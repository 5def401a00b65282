"""Intervals of scores and paired differences between models.

Scores of one model on one task are n problems, each solved (1) or not (0). Intervals
hold for problems drawn independently; problems of one template are a little alike, so
they are a little too narrow. Two models scored on the SAME problems are compared by
their paired difference, not by whether their intervals overlap.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


class Interval(NamedTuple):
    """A 95 % interval of a score or of a difference of scores; both ends inclusive."""

    low: float
    high: float


class Difference(NamedTuple):
    """The difference of model A from model B, paired by problem.

    Attributes:
      difference: of the mean scores, in [-1, 1].
      standard_error: of the difference.
      won: problems that A scored higher on.
      lost: problems that B scored higher on.
      problems: problems compared.
    """

    difference: float
    standard_error: float
    won: int
    lost: int
    problems: int

    @property
    def interval(self) -> Interval:
        """The difference plus and minus 1.96 standard errors."""
        half = Z95 * self.standard_error
        return Interval(self.difference - half, self.difference + half)


def mean(values: Sequence[float]) -> float:
    """The mean, rounded once; independent of the order of `values`.

    Raises:
      ValueError: if there are none.
    """
    if not values:
        raise ValueError("The mean of no values was asked for.")
    return math.fsum(values) / len(values)


def wilson(score: float, problems: int) -> Interval:
    """Wilson's score interval of a proportion.

    Source: E. B. Wilson, JASA 22 (1927). Unlike score +- 1.96 standard errors it does
    not shrink to a point at 0 and 1 and never leaves [0, 1].

    Args:
      score: the proportion solved, in [0, 1].
      problems: how many it was measured on, at least 1.
    """
    if problems < 1 or not 0 <= score <= 1:
        raise ValueError(
            f"Expected a score in [0, 1] on at least one problem, got {score} on "
            f"{problems}."
        )
    spread = Z95**2 / problems
    centre = (score + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (score * (1 - score) + spread / 4)) / (1 + spread)
    low = 0.0 if score == 0 else max(0.0, centre - half)
    high = 1.0 if score == 1 else min(1.0, centre + half)
    return Interval(low, high)


def score_interval(values: Sequence[float]) -> Interval:
    """The interval of a mean score: Wilson's if every problem is solved or not.

    For shares like those of masks it is the mean plus and minus 1.96 standard errors,
    within [0, 1].
    """
    score = mean(values)
    if all(value in (0, 1) for value in values):
        return wilson(score, len(values))
    half = Z95 * standard_error(values)
    return Interval(max(0.0, score - half), min(1.0, score + half))


def mean_interval(scores: Sequence[float], problems: Sequence[int]) -> Interval:
    """The interval of a mean over independent tasks, each with the same weight.

    The distances of the tasks' Wilson limits to their scores are added in squares:
    low = mean - sqrt(sum_k (p_k - l_k)^2) / K, and likewise above. Source: "MOVER",
    G. Y. Zou and A. Donner, Statistics in Medicine 27 (2008).

    Args:
      scores: one per task, in [0, 1].
      problems: one count per task.
    """
    limits = [wilson(p, n) for p, n in zip(scores, problems, strict=True)]
    return interval_of_mean(scores, limits)


def interval_of_mean(scores: Sequence[float], limits: Sequence[Interval]) -> Interval:
    """As `mean_interval`, from the tasks' own intervals."""
    centre, count = mean(scores), len(scores)
    pairs = list(zip(scores, limits, strict=True))
    below = math.hypot(*(p - limit.low for p, limit in pairs)) / count
    above = math.hypot(*(limit.high - p for p, limit in pairs)) / count
    return Interval(max(0.0, centre - below), min(1.0, centre + above))


def paired_difference(a: Mapping[str, float], b: Mapping[str, float]) -> Difference:
    """Compares two models on one task.

    Args:
      a: score by problem of the first model.
      b: likewise of the second; the same problems.

    Raises:
      ValueError: if the problems differ or there are none.
    """
    if a.keys() != b.keys() or not a:
        raise ValueError("A paired difference needs the same problems on both sides.")
    gaps = [a[problem] - b[problem] for problem in sorted(a)]
    count, centre = len(gaps), mean(gaps)
    won, lost = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    return Difference(centre, standard_error(gaps), won, lost, count)


def standard_error(values: Sequence[float]) -> float:
    """The standard error of a mean; 1, the widest possible, for a single value."""
    count, centre = len(values), mean(values)
    if count == 1:
        return 1.0
    squares = math.fsum((value - centre) ** 2 for value in values)
    return math.sqrt(squares / (count - 1) / count)


def mean_difference(tasks: Sequence[Difference]) -> Difference:
    """The difference of means over independent tasks, each with the same weight."""
    return Difference(
        difference=mean([task.difference for task in tasks]),
        standard_error=math.hypot(*(task.standard_error for task in tasks))
        / len(tasks),
        won=sum(task.won for task in tasks),
        lost=sum(task.lost for task in tasks),
        problems=sum(task.problems for task in tasks),
    )
