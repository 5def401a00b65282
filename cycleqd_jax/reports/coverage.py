"""Coverage: the problems a population solves together, and few models that do.

The value of a set of models is the sum over problems of the best score of any of them;
of tasks that are solved or not this is the number of problems that at least one solves.
Models are added greedily, the one that adds most first, which comes within 1 - 1/e of
the best set of that size. Source: Nemhauser, Wolsey, Fisher, Mathematical Programming
14 (1978).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.reports.population import Population

# model -> task -> problem -> score in [0, 1]
TaskScores = Mapping[str, Mapping[str, Mapping[str, float]]]


def coverage(scores: TaskScores) -> dict[str, Any] | None:
    """The problems that models solve together.

    Args:
      scores: of models on one split. Models that lack problems count those as unsolved.

    Returns:
      `models` and `problems`: their numbers; `together`: what all solve, `best`: what
      the best one does, and its `name`, all as counts of problems; `cover`: the models
      that solve as much as all do, `name` and what it `adds`, in the order in which
      they were added. None for fewer than two models.
    """
    if len(scores) < 2:
        return None
    problems = sorted({(t, p) for own in scores.values() for t in own for p in own[t]})
    names = list(scores)
    table = np.array(
        [[scores[n].get(t, {}).get(p, 0.0) for t, p in problems] for n in names]
    ).reshape(len(names), len(problems))
    alone, together = table.sum(1), table.max(0, initial=0.0)
    best, held, cover = int(alone.argmax()), np.zeros(len(problems)), []
    while len(cover) < len(names):
        gains = np.maximum(table - held, 0.0).sum(1)
        chosen = int(gains.argmax())  # the first of equal ones
        if gains[chosen] < 1e-9:
            break
        held = np.maximum(held, table[chosen])
        cover.append({"name": names[chosen], "adds": float(gains[chosen])})
    return {
        "models": len(names),
        "problems": len(problems),
        "together": float(together.sum()),
        "best": float(alone[best]),
        "name": names[best],
        "cover": cover,
    }


def of_population(population: Population) -> dict[str, dict[str, Any]]:
    """Coverage by split, and `who` it is of.

    On `test` it is that of the models that have results there, if these are several;
    on `optimise` that of all experts and children.
    """
    tested = [*population.others, *population.names]
    groups = {
        "test": (tested, "the {} models with results"),
        "optimise": (population.names, "all {} experts and children"),
    }
    found = {}
    for split, (names, who) in groups.items():
        scores = {n: population.scores.get(n, {}).get(split, {}) for n in names}
        entry = coverage({name: own for name, own in scores.items() if own})
        if entry is not None:
            found[split] = {"who": who.format(entry["models"])} | entry
    return found
