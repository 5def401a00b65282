"""Champions and metrics of searches that rank individuals by their mean score."""

from collections.abc import Iterable, Sequence

import numpy as np

from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.aggregation import Contender
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.elites import mean_score, mean_smooth
from cycleqd_jax.search.base import Champions

_KEPT = 100  # genomes of candidates that stay in the bank, the best by mean score


def expert_bank(
    experts: Sequence[Genome],
    scores: np.ndarray,
    smooth: np.ndarray | None = None,
    retention: np.ndarray | None = None,
) -> Bank:
    """A bank of the experts; row k of `scores`, `[E, K]`, has those of expert k.

    So have row k of `smooth` and entry k of `retention`, where the run has them.
    """
    bank = Bank.empty(np.shape(scores)[1], len(experts))
    nothing = [None] * len(experts)
    likely = nothing if smooth is None else smooth.tolist()
    kept = nothing if retention is None else retention.tolist()
    for genome, own, *more in zip(experts, scores, likely, kept, strict=True):
        bank = bank.add_expert(genome, [float(score) for score in own], *more)
    return bank


def ranked(bank: Bank) -> list[int]:
    """Ids of completely evaluated individuals by mean score.

    Ties are broken by the mean smooth score where there are any, then by the lowest id.
    """
    found = np.flatnonzero(bank.complete).tolist()
    smooth = [mean_smooth(row) for row in bank.smooth.tolist()]
    return sorted(found, key=lambda i: (-mean_of(bank, i), -smooth[i], i))


def mean_of(bank: Bank, individual: int) -> float:
    """The mean score of one individual over all tasks."""
    return mean_score(bank.scores[individual].tolist())


def prune(bank: Bank, also: Iterable[int] = ()) -> Bank:
    """The bank without genomes of all but the best individuals and `also`."""
    return bank.prune({*ranked(bank)[:_KEPT], *also})


def champions(bank: Bank) -> Champions:
    """One group, "mean": all individuals by their mean score."""
    best = ranked(bank)
    contenders = tuple(Contender(i, mean_of(bank, i), None) for i in best[:_KEPT])
    return Champions({"mean": contenders}, best[0])


def metrics(bank: Bank, tasks: Sequence[str]) -> dict[str, float | str]:
    """`best/` of every task, and `best/mean`, the best mean over all tasks."""
    found = ranked(bank)
    best = bank.scores[found].max(axis=0)
    named = {f"best/{task}": float(b) for task, b in zip(tasks, best, strict=True)}
    return named | {"best/mean": mean_of(bank, found[0])}
