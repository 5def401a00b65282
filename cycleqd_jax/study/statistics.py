"""Errors of scores over search seeds and templates of problems, by resampling.

Scores `x[s, p]` of a method, or differences of two methods paired by seed and problem,
vary for two reasons that are crossed: another search seed, and other problems. Problems
of one template are alike, so templates are resampled, each task's among themselves.
The variance of the mean is

    V = V_seeds + V_templates - V_both

with the variances of resampled means: seeds drawn, templates drawn, and pairs of a seed
and a template drawn, which the first two have both counted. Of n units n - 1 are drawn,
with replacement, which makes a variance unbiased. Intervals and p-values are Student's,
with Satterthwaite's degrees of freedom: with two seeds that disagree they are wide.

Sources: Cameron, Gelbach and Miller, "Robust inference with multiway clustering" (JBES
29, 2011); Rao and Wu, "Resampling inference with complex survey data" (JASA 83, 1988);
Holm, "A simple sequentially rejective multiple test procedure" (1979).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

_SEED = 0  # of the resamples, so that equal scores have equal intervals


class Estimate(NamedTuple):
    """A mean over tasks with its 95 % interval.

    Attributes:
      value: the mean over tasks of the means over seeds and problems.
      low: lower end of the interval.
      high: upper end.
      standard_error: the square root of V.
      p_value: two-sided, of the hypothesis that the mean is 0; without correction.
    """

    value: float
    low: float
    high: float
    standard_error: float
    p_value: float


class Layout(NamedTuple):
    """The problems that scores are of.

    Attributes:
      tasks: int `[P]`, the task of each problem, from 0.
      templates: int `[P]`, its template, from 0; no two tasks share one.
    """

    tasks: np.ndarray
    templates: np.ndarray

    def subset(self, mask: np.ndarray) -> "Layout":
        """The layout of some problems; tasks and templates without any are gone."""
        return Layout(*(np.unique(x[mask], return_inverse=True)[1] for x in self))


def estimate(scores: np.ndarray, layout: Layout, *, resamples: int) -> Estimate:
    """The mean of scores and its error.

    Args:
      scores: `[S, P]` scores or paired differences, of S seeds and P problems.
      layout: of the problems. A task with one template is resampled by problem.
      resamples: B, of each kind.

    Raises:
      ValueError: there are no problems.
    """
    scores = np.asarray(scores, np.float64)
    if not scores.size:
        raise ValueError("scores: expected at least one seed and one problem.")
    rng, seeds = np.random.default_rng(_SEED), scores.shape[0]
    by_task = [_cells(scores, layout, k) for k in range(layout.tasks.max() + 1)]
    value = float(np.mean([sums.sum() / (seeds * n.sum()) for sums, n in by_task]))
    draws = [_draws(rng, (seeds, n.size), resamples) for _, n in by_task]
    shared = _units(rng, seeds, resamples)[:, :, None]  # seeds cross all tasks
    of_seeds = _variance([shared] * len(by_task), by_task)
    of_templates = _variance([draw[0] for draw in draws], by_task)
    of_both = _variance([draw[1] for draw in draws], by_task)
    variance = max(of_seeds + of_templates - of_both, of_seeds, of_templates)
    error = float(np.sqrt(variance))
    if error == 0:
        return Estimate(value, value, value, 0.0, 1.0 if value == 0 else 0.0)
    clusters = sum(n.size - 1 for _, n in by_task)
    parts = of_templates**2 / max(clusters, 1) + of_seeds**2 / max(seeds - 1, 1)
    freedom = max(variance**2 / parts, 1.0)
    half = float(stats.t.ppf(0.975, freedom)) * error
    p_value = 2 * float(stats.t.sf(abs(value) / error, freedom))
    return Estimate(value, value - half, value + half, error, p_value)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values corrected for their number by Holm's method, by name."""
    found, highest = {}, 0.0
    ordered = sorted(p_values, key=lambda name: (p_values[name], name))
    for place, name in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - place) * p_values[name]))
        found[name] = highest
    return {name: found[name] for name in p_values}


def _cells(
    scores: np.ndarray, layout: Layout, task: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of scores `[S, G]` and numbers of problems `[G]` of a task's templates."""
    mask = layout.tasks == task
    _, clusters = np.unique(layout.templates[mask], return_inverse=True)
    if clusters.max() == 0:
        clusters = np.arange(clusters.size)
    own = scores[:, mask]
    sums = np.stack([np.bincount(clusters, row) for row in own])
    return sums, np.bincount(clusters).astype(np.float64)


def _units(rng: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    """Draws of each unit in B resamples, `[B, count]`; 1 for a single unit."""
    if count == 1:
        return np.ones((resamples, 1))
    return rng.multinomial(count - 1, np.full(count, 1 / count), resamples)


def _draws(
    rng: np.random.Generator, shape: tuple[int, int], resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Drawn templates `[B, 1, G]`, and drawn pairs of seed and template `[B, S, G]`."""
    templates = _units(rng, shape[1], resamples)[:, None, :]
    pairs = _units(rng, shape[0] * shape[1], resamples)
    return templates, pairs.reshape(resamples, *shape)


def _variance(
    weights: list[np.ndarray], by_task: list[tuple[np.ndarray, np.ndarray]]
) -> float:
    """The variance over resamples of the mean over tasks.

    Args:
      weights: per task `[B, S or 1, G or 1]`.
      by_task: see `_cells`.
    """
    means = []
    for drawn, (sums, counts) in zip(weights, by_task, strict=True):
        top = (drawn * sums).sum(axis=(1, 2))
        numbers = np.broadcast_to(counts, sums.shape)
        means.append(top / (drawn * numbers).sum(axis=(1, 2)))
    return float(np.var(np.mean(means, axis=0)))
