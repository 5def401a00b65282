"""Model similarity of pairs of experts against what their merged models score.

The paper finds that the mean cosine of two experts' singular values predicts how well
they merge (correlation 0.83 over pairs of segmentation experts). Each finished run of
two experts is one pair.

Source: CycleQD (arXiv 2410.14735), section 4.3; intervals of correlations by Fisher's
transformation (Biometrika 10, 1915).
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports import drawing
from cycleqd_jax.reports.statistics import Z95
from cycleqd_jax.runs import reading, sums
from cycleqd_jax.runs.names import expert_name
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.tasks.base import Split

_LEAST = 4  # pairs, so that a correlation has an interval


class Pair(NamedTuple):
    """A finished run of two experts.

    Attributes:
      run: its folder.
      experts: names of the two.
      similarity: mean over matrices of the cosine of their singular values.
      merged: mean score of the run's result on `test`.
      experts_own: mean score there of each expert on its own task.
    """

    run: str
    experts: tuple[str, str]
    similarity: float
    merged: float
    experts_own: float

    @property
    def kept(self) -> float:
        """The share of the experts' scores that the merged model keeps."""
        return self.merged / self.experts_own if self.experts_own else math.nan


class Correlation(NamedTuple):
    """Pearson's correlation with its 95 % interval."""

    value: float
    low: float
    high: float


def read_pair(run: pathlib.Path) -> Pair:
    """Reads a finished run of two tasks with an expert each.

    Raises:
      BadInputError: the run is not finished, is damaged, has other tasks or experts, or
        conditions the experts, which changes their singular values.
    """
    opened = open_run(run, finished=True)
    if len(opened.experts) != 2 or opened.experts != opened.tasks:
        raise BadInputError(
            f"{run}: has the experts {', '.join(opened.experts)} and the tasks "
            f"{', '.join(opened.tasks)}; expected two tasks with an expert each."
        )
    if opened.config.basis.conditioning != "none":
        raise BadInputError(
            f"{run}: its experts are conditioned, which changes their similarity; "
            "expected basis.conditioning: none."
        )
    [row] = files.read_json(sums.intact(run / "basis.json"))["similarity"]
    result = opened.facts.result
    owns = [expert_name(expert) for expert in opened.experts]
    scores = reading.read_scores(run, [result, *owns])

    def mean(name: str, task: str) -> float:
        values = list(scores[name][Split.TEST][task].values())
        return math.fsum(values) / len(values)

    merged = [mean(result, task) for task in opened.tasks]
    own = [mean(n, task) for n, task in zip(owns, opened.tasks, strict=True)]
    return Pair(
        str(run),
        opened.experts,
        row["cosine"],
        math.fsum(merged) / 2,
        math.fsum(own) / 2,
    )


def correlation(xs: Sequence[float], ys: Sequence[float]) -> Correlation:
    """Pearson's correlation of two sequences of n > 3 numbers.

    NaN where one of them is constant.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        r = float(np.corrcoef(xs, ys)[0, 1])
        half = Z95 / math.sqrt(len(xs) - 3)
        low, high = np.tanh(np.arctanh(r) + np.asarray([-half, half]))
    return Correlation(r, float(low), float(high))


def compare_pairs(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Correlates similarity with the merged score, and with the share that is kept.

    Raises:
      BadInputError: there are fewer than four pairs, or an expert solves nothing.
    """
    if len(pairs) < _LEAST:
        raise BadInputError(
            f"{len(pairs)} runs were given; expected at least {_LEAST}, one for each "
            "pair of experts."
        )
    if lost := [pair.run for pair in pairs if not pair.experts_own]:
        raise BadInputError(
            f"{lost[0]}: its experts solve no test problem of their own tasks, so "
            "there is nothing to keep; leave it out."
        )
    xs = [pair.similarity for pair in pairs]
    rows = [pair._asdict() | {"kept": pair.kept} for pair in pairs]
    found = {
        name: correlation(xs, [row[name] for row in rows])._asdict()
        for name in ("merged", "kept")
    }
    return {"pairs": rows, "correlation": found}


@drawing.styled
def draw_pairs(found: dict[str, Any]) -> bytes:
    """A PNG with a dot per pair: similarity against the share of scores kept.

    Args:
      found: from `compare_pairs`.
    """
    figure = drawing.new_figure(5.0, 3.6)
    axes = figure.subplots()
    rows, r = found["pairs"], found["correlation"]["kept"]
    axes.plot(
        [row["similarity"] for row in rows],
        [row["kept"] for row in rows],
        "o",
        color=drawing.RESULT,
    )
    axes.set_xlabel("model similarity")
    axes.set_ylabel("share of the experts' scores kept")
    axes.set_title(
        f"correlation {r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}], "
        f"{len(rows)} pairs"
    )
    return drawing.to_png(figure)
