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
from cycleqd_jax.qd.archives import Archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.elites import Elite, elites, mean_score, rank_elites


class Champion(NamedTuple):
    """The elite that represents its archive.

    Attributes:
      elite: the elite, with its quality in the archive.
      validated: the validation score by which it was chosen; None without validation.
    """

    elite: Elite
    validated: float | None


class Aggregate(NamedTuple):
    """The aggregated individual.

    Attributes:
      genome: one genome.
      beta: the champions' weights, float64 `[K]`, summing to one.
    """

    genome: Genome
    beta: np.ndarray


def champion_candidates(
    archives: Archives, bank: Bank, count: int
) -> tuple[tuple[Elite, ...], ...]:
    """The `count` best elites of each archive, the best first (see `rank_elites`).

    Raises:
      ValueError: the count is below 1 or an archive is empty.
    """
    if count < 1:
        raise ValueError(f"candidates: expected at least 1, got {count}.")
    best = []
    for task in range(archives.num_tasks):
        ranked = rank_elites(elites(archives, bank, task))
        if not ranked:
            raise ValueError(f"archive {task} is empty; offer the experts first.")
        best.append(tuple(ranked[:count]))
    return tuple(best)


def choose_champions(
    candidates: Sequence[Sequence[Elite]],
    validated: Mapping[int, Sequence[float]] | None = None,
    *,
    by: str = "mean",
) -> tuple[Champion, ...]:
    """Chooses one champion per archive.

    Args:
      candidates: from `champion_candidates`.
      validated: individual id -> its K validation scores, for all candidates. If None,
        the first candidate of each archive is the champion.
      by: "mean" over all tasks, or "quality", the score on the archive's task.

    Returns:
      For each archive the candidate with the highest validation score. Of equal
      candidates the one that ranked higher before validation is chosen.

    Raises:
      ValueError: a candidate has no validation scores.
    """
    if validated is None:
        return tuple(Champion(best[0], None) for best in candidates)

    def value(elite: Elite) -> float:
        scores = validated[elite.individual]
        return mean_score(scores) if by == "mean" else float(scores[elite.archive])

    champions = []
    for best in candidates:
        for elite in best:
            if elite.individual not in validated:
                raise ValueError(
                    f"validated: expected scores of individual {elite.individual}, a "
                    f"candidate of archive {elite.archive}, but there are none."
                )
        # max keeps the first of equals, and candidates are ranked.
        chosen = max(best, key=value)
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
