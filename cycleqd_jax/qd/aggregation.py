"""Aggregation: one model from the champions of all archives.

    theta = theta_base + sum_k beta_k tau_k*,    beta = softmax(qualities)

where tau_k* is the task vector of archive k's champion. The best quality of an archive
is the maximum of many scores on few problems, so it is optimistic. Therefore the best
few elites of each archive may be scored again, on other problems, before a champion is
chosen. It is chosen by the mean over all tasks: by the archive's own task alone the
expert of that task mostly wins, and an average of experts is the uniform merge.

Source: CycleQD (arXiv 2410.14735), model aggregation; choosing by validation is ours.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.merging.genome import Genome, linear_combination
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.qd.archives import Archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.elites import elites, mean_score, rank_elites


class Contender(NamedTuple):
    """An individual that may represent its group, such as an archive.

    Attributes:
      individual: its id.
      quality: the score on `optimise` by which the search ranked it.
      task: the task that `quality` is the score on, 0-based; None if it is the mean
        over all tasks.
    """

    individual: int
    quality: float
    task: int | None


class Champion(NamedTuple):
    """The contender that represents its group.

    Attributes:
      contender: the contender.
      validated: the validation score by which it was chosen; None without validation.
    """

    contender: Contender
    validated: float | None


class Aggregate(NamedTuple):
    """The aggregated individual.

    Attributes:
      genome: one genome; a recipe if that is the only champion.
      beta: the champions' weights, float64 `[K]`, summing to one.
    """

    genome: Genome | Recipe
    beta: np.ndarray


def contenders(archives: Archives, bank: Bank) -> tuple[tuple[Contender, ...], ...]:
    """The elites of each archive, the best first (see `rank_elites`).

    Raises:
      ValueError: an archive is empty.
    """
    groups = []
    for task in range(archives.num_tasks):
        ranked = rank_elites(elites(archives, bank, task))
        if not ranked:
            raise ValueError(f"archive {task} is empty; offer the experts first.")
        groups.append(tuple(Contender(e.individual, e.quality, task) for e in ranked))
    return tuple(groups)


def choose_champions(
    contenders: Sequence[Sequence[Contender]],
    validated: Mapping[int, Sequence[float]] | None = None,
    *,
    by: str = "mean",
) -> tuple[Champion, ...]:
    """Chooses one champion per group.

    Args:
      contenders: of each group, the best first.
      validated: individual id -> its K validation scores, for all contenders. If None,
        the first contender of each group is its champion.
      by: "mean" over all tasks, or "quality", the score on the group's own task.

    Returns:
      For each group the contender with the highest validation score. Of equal ones
      that which the search ranked higher is chosen.

    Raises:
      ValueError: a contender has no validation scores.
    """
    if validated is None:
        return tuple(Champion(best[0], None) for best in contenders)

    def value(one: Contender) -> float:
        scores = validated[one.individual]
        if by == "mean" or one.task is None:
            return mean_score(scores)
        return float(scores[one.task])

    champions = []
    for best in contenders:
        for one in best:
            if one.individual not in validated:
                raise ValueError(
                    f"validated: expected scores of individual {one.individual}, a "
                    "contender, but there are none."
                )
        chosen = max(best, key=value)  # max keeps the first of equals
        champions.append(Champion(chosen, value(chosen)))
    return tuple(champions)


def softmax(qualities: Sequence[float]) -> np.ndarray:
    """`exp(q_k) / sum_j exp(q_j)`, float64 `[K]`."""
    values = np.asarray(qualities, np.float64)
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def aggregate(genomes: Genome, qualities: Sequence[float]) -> Aggregate:
    """The softmax-weighted sum of K champions.

    Args:
      genomes: the champions, `[K, G]` and `[K, K]`; `Bank.gather` makes them.
      qualities: `[K]`.

    Returns:
      The genome, summed in float64 and rounded once to float32, and the weights.
    """
    beta = softmax(qualities)
    return Aggregate(linear_combination(genomes, beta), beta)


def choose_result(
    average: Sequence[float], champions: Mapping[str, Sequence[float]]
) -> str | None:
    """The best on other problems of the champions' average and the champions.

    An average of champions that are far apart can be worse than each of them.

    Args:
      average: K validation scores of the average.
      champions: group -> K validation scores of its champion.

    Returns:
      The group of the champion with the best mean; None if the average is as good.
    """
    means = {group: mean_score(scores) for group, scores in champions.items()}
    best = max(means, key=means.__getitem__)  # max keeps the first of equals
    return best if means[best] > mean_score(average) else None


def aggregate_champions(
    bank: Bank, champions: Sequence[int], qualities: Sequence[float]
) -> Aggregate:
    """The softmax-weighted sum of K champions of a bank; one champion is its own sum.

    Args:
      bank: has them.
      champions: K ids; several must be genomes.
      qualities: `[K]`.

    Raises:
      KeyError: one of several champions is a recipe.
    """
    if len(champions) == 1:
        return Aggregate(bank.individual(champions[0]), np.ones(1))
    return aggregate(bank.gather(champions), qualities)
