"""The rungs of a race, and who passes them: successive halving of a batch.

With R rungs and a share `keep`, rung r = 1..R runs all candidates that are left on the
first `keep ** (R - r + 1)` of each task's problems and rejects all but the best `keep`
of them. Those that pass every rung run on all problems. A batch of 8 with two rungs and
`keep` 0.5 runs half the episodes: 8 candidates on a quarter of the problems, 4 on a
half, 2 on all.

Quality-diversity needs specialists too, so candidates are ranked by their best place,
in the mean over tasks or in any one task: the best of each task and the best on average
stay in the race before anyone else. Of equal places the higher mean goes first, then
the higher smooth score where there are any, then the earlier candidate.

Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and
hyperparameter optimization" (arXiv 1502.07943), for successive halving; the ranking is
ours.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from cycleqd_jax.files import Section


class RacingSettings(Section):
    """Racing of the candidates of a batch.

    Attributes:
      rungs: R, how often the worse part of a batch is rejected; 0 races nobody.
      keep: share of candidates that pass a rung, and of problems between two rungs.
    """

    rungs: Annotated[int, Field(ge=0, le=8)] = 0
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Rung(NamedTuple):
    """One step of a race.

    Attributes:
      problems: per task, how many of its problems have been run after this step.
      candidates: how many candidates run them.
    """

    problems: tuple[int, ...]
    candidates: int


def make_rungs(
    settings: RacingSettings, problems: Sequence[int], candidates: int
) -> list[Rung]:
    """The steps of a race; the last runs all problems and rejects nobody.

    Args:
      settings: of the race.
      problems: number of each task's problems.
      candidates: in the batch; one alone races against nobody.
    """
    steps, left = [], candidates
    for r in range(settings.rungs):
        passing = max(1, math.ceil(settings.keep * left))
        if passing < left:
            share = settings.keep ** (settings.rungs - r)
            part = tuple(math.ceil(share * count) for count in problems)
            steps.append(Rung(part, left))
            left = passing
    return [*steps, Rung(tuple(problems), left)]


def planned_episodes(steps: Sequence[Rung]) -> int:
    """The number of episodes of a race."""
    total, before = 0, 0
    for step in steps:
        total += (sum(step.problems) - before) * step.candidates
        before = sum(step.problems)
    return total


class Standing(NamedTuple):
    """The place of a candidate in a race; the least is the best.

    Attributes:
      place: its best place in the mean or in one task, from 0.
      mean: minus its mean score over tasks.
    """

    place: int
    mean: float


def standings(means: Mapping[str, Sequence[float]]) -> dict[str, Standing]:
    """Name -> standing.

    Args:
      means: name -> mean score on each task, on the problems run so far.
    """
    columns = {name: (*row, math.fsum(row) / len(row)) for name, row in means.items()}
    return {
        name: Standing(
            min(
                sum(other[k] > value for other in columns.values())
                for k, value in enumerate(row)
            ),
            -row[-1],
        )
        for name, row in columns.items()
    }
