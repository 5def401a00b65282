"""Diverse individuals of a search on `test`: what its population solves together.

They are chosen greedily by the `optimise` problems that they add, so `test` has no part
in the choice. The report shows what they and the compared models solve together, and
how many models that takes (`reports.coverage`).
"""

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.runs import facts, reading
from cycleqd_jax.runs.cached import CachedEvaluator
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.names import individual_name
from cycleqd_jax.tasks.base import Split

_PART = "population-{}-test"


def choose(run: pathlib.Path, names: Iterable[str], count: int) -> list[str]:
    """Individuals that together solve most `optimise` problems.

    The first has the best mean; each further one adds most problems that none before it
    solves, and of equals has the best mean.

    Args:
      run: the run folder.
      names: of individuals to choose from.
      count: their number, if there are as many with results.
    """
    kept = list(names)
    found = reading.read_scores(run, kept)
    scores = {n: found[n][Split.OPTIMISE] for n in kept if Split.OPTIMISE in found[n]}
    means = {
        name: np.mean(
            [np.mean(list(by_problem.values())) for by_problem in own.values()]
        )
        for name, own in scores.items()
    }
    solved = {
        name: {(t, p) for t, rows in own.items() for p, s in rows.items() if s == 1}
        for name, own in scores.items()
    }
    chosen: list[str] = []
    covered: set[tuple[str, str]] = set()
    while len(chosen) < min(count, len(scores)):
        rest = [name for name in scores if name not in chosen]
        if chosen:
            best = max(rest, key=lambda n: (len(solved[n] - covered), means[n]))
        else:
            best = max(rest, key=lambda n: means[n])
        chosen.append(best)
        covered |= solved[best]
    return chosen


def measure(
    cached: CachedEvaluator,
    folder: RunFolder,
    bank: Bank,
    experts: Sequence[str],
    count: int,
) -> None:
    """Has diverse individuals play `test`, as far as they have not yet.

    Meanwhile the run is not finished: one that is interrupted here goes on here.

    Args:
      cached: evaluates.
      folder: of the run; the experts have played `test`.
      bank: individuals with their genomes.
      experts: their names.
      count: number of individuals; 0 for none.
    """
    part = _PART.format(count)
    folder.forget_parts(_PART.format("*"), keep=part)
    if not count:
        return
    if not folder.part("results", part).is_file():
        (folder.path / facts.NAME).unlink(missing_ok=True)
    ids = {individual_name(i, experts): i for i in sorted(bank.genomes)}
    chosen = choose(folder.path, ids, count)
    children = {n: bank.individual(ids[n]) for n in chosen if ids[n] >= len(experts)}
    if children:
        cached.scores(part, children, Split.TEST)


def forget(folder: RunFolder) -> None:
    """Removes what they answered, before the search goes on."""
    folder.forget_parts(_PART.format("*"))
