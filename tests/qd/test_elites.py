import numpy as np
import pytest

from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.archives import empty_archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.elites import (
    archive_metrics,
    best_by_mean,
    elites,
    mean_score,
    mean_smooth,
    rank_elites,
)

NO_GENOME = Genome(np.zeros(1), np.zeros(3))


def run_of(rows, bins=4, smooth=None):
    archives, bank = empty_archives([(0.0, 1.0)] * 3, bins), Bank.empty(3)
    for i, scores in enumerate(rows):
        child = {"parents": [0, 1], "weights": [1, 1], "active": 0}
        if i < 3:
            bank = bank.add_expert(NO_GENOME, scores, smooth and smooth[i])
        else:
            bank = bank.add_child(NO_GENOME, scores, **child)
        archives, _ = archives.offer(i, scores)
    return archives, bank


def test_ties_go_to_the_mean_and_then_to_the_lowest_cell():
    rows = [[0.6, 0.1, 0.1], [0.6, 0.9, 0.1], [0.6, 0.1, 0.9], [0.5, 0.9, 0.9]]
    archives, bank = run_of(rows)
    ranked = rank_elites(elites(archives, bank, 0))
    cells = {e.individual: e.cell for e in ranked}
    assert {e.individual for e in ranked[:2]} == {1, 2}  # equal quality and mean
    assert ranked[0].cell == min(cells[1], cells[2])
    assert [e.individual for e in ranked[2:]] == [0, 3]


def test_equal_means_tie_whatever_the_order_of_tasks():
    scores = [0.1, 0.2, 0.3, 0.7]
    assert (
        mean_score(scores)
        == mean_score(scores[::-1])
        == mean_score([0.3, 0.1, 0.7, 0.2])
    )


def test_listing_and_metrics_use_float64_scores():
    third = 1 / 3
    archives, bank = run_of([[third, 0.1, 0.1], [0.2, 0.9, 0.1], [0.1, 0.1, 0.7]])
    found = elites(archives, bank, 0)
    assert [e.cell for e in found] == sorted(e.cell for e in found)
    assert {e.individual: e.bins for e in found} == {0: (0, 0), 1: (3, 0), 2: (0, 2)}
    assert next(e for e in found if e.individual == 0).quality == third
    metrics = archive_metrics(archives, bank)
    assert metrics[0] == (third, 3 / 16, pytest.approx(third + 0.2 + 0.1, abs=1e-15))
    # Archive 1: individuals 0 and 2 share no cell there; all three are elites.
    assert metrics[1].best == 0.9


def test_best_by_mean_names_the_earliest_of_equals():
    rows = [[0.9, 0.1, 0.2], [0.1, 0.9, 0.2], [0.3, 0.3, 0.3], [0.2, 0.1, 0.9]]
    archives, bank = run_of(rows)
    best = best_by_mean(archives, bank)
    assert best.individual == 0 and best.archive == 0


def test_empty_archives_have_no_best():
    archives = empty_archives([(0.0, 1.0)] * 3, 4)
    bank = Bank.empty(3)
    assert archive_metrics(archives, bank)[0] == (0.0, 0.0, 0.0)
    assert rank_elites(elites(archives, bank, 1)) == []
    with pytest.raises(ValueError, match="all archives are empty"):
        best_by_mean(archives, bank)


def test_smooth_scores_decide_what_verdicts_leave_open():
    rows = [[0.6, 0.9, 0.1], [0.6, 0.1, 0.9], [0.6, 0.5, 0.25]]
    smooth = [[-0.9, -0.9, np.nan], [-0.2, -0.4, np.nan], [-0.1, -0.1, -0.1]]
    archives, bank = run_of(rows, smooth=smooth)
    ranked = rank_elites(elites(archives, bank, 0))
    assert [e.individual for e in ranked] == [1, 0, 2]
    assert best_by_mean(archives, bank).individual == 1
    assert mean_smooth(smooth[1]) == pytest.approx(-0.3)
    assert mean_smooth([np.nan] * 3) == -np.inf
