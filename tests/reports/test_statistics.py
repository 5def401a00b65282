import math

import numpy as np
import pytest

from cycleqd_jax.reports import statistics


@pytest.mark.parametrize(
    ("solved", "problems", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_intervals(solved, problems, low, high):
    got = statistics.wilson(solved / problems, problems)
    assert got == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("problems", [1, 7, 64])
def test_wilson_stays_in_range_and_has_width_at_the_ends(problems):
    at_zero, at_one = statistics.wilson(0, problems), statistics.wilson(1, problems)
    assert at_zero.low == 0 and 0 < at_zero.high < 1
    assert at_one.high == 1 and 0 < at_one.low < 1
    assert at_zero.high == pytest.approx(1 - at_one.low)


@pytest.mark.parametrize(("score", "problems"), [(1.5, 3), (0.5, 0), (math.nan, 3)])
def test_wilson_refuses_what_is_no_proportion(score, problems):
    with pytest.raises(ValueError, match="Expected a score"):
        statistics.wilson(score, problems)


def test_mean_interval_of_one_task_is_wilsons():
    got = statistics.mean_interval([0.3], [20])
    assert got == pytest.approx(statistics.wilson(0.3, 20))


def test_mean_interval_of_perfect_scores_keeps_a_width():
    low, high = statistics.mean_interval([1.0, 1.0, 1.0], [20, 20, 20])
    assert high == 1.0
    assert 1 - low == pytest.approx((1 - statistics.wilson(1, 20).low) / math.sqrt(3))


@pytest.mark.parametrize("seed", range(3))
def test_mean_interval_covers_the_truth_about_as_often_as_it_says(seed):
    rng = np.random.default_rng(seed)
    truth, sizes, repeats = np.array([0.9, 0.5, 0.05]), [24, 24, 24], 400
    hits = 0
    for _ in range(repeats):
        scores = [rng.binomial(n, p) / n for p, n in zip(truth, sizes, strict=True)]
        low, high = statistics.mean_interval(scores, sizes)
        hits += low <= truth.mean() <= high
    assert 0.92 <= hits / repeats <= 0.985


def test_paired_difference_by_hand():
    a = {"p1": 1.0, "p2": 1.0, "p3": 0.0, "p4": 1.0}
    b = {"p4": 0.0, "p3": 1.0, "p2": 0.0, "p1": 1.0}
    got = statistics.paired_difference(a, b)
    gaps = np.array([0, 1, -1, 1.0])
    assert got.difference == 0.25
    assert got.standard_error == pytest.approx(gaps.std(ddof=1) / 2)
    assert (got.won, got.lost, got.problems) == (2, 1, 4)
    assert got.interval.low == pytest.approx(0.25 - 1.959964 * got.standard_error)


def test_paired_difference_needs_the_same_problems():
    for other in ({"p2": 1.0}, {}):
        with pytest.raises(ValueError, match="same problems"):
            statistics.paired_difference({"p1": 1.0}, other)


def test_pairing_is_sharper_than_two_intervals():
    """Two models that differ on one of 40 problems only."""
    a = {str(i): float(i % 2) for i in range(40)}
    b = a | {"1": 0.0}
    unpaired = math.sqrt(2 * 0.25 / 40)
    assert statistics.paired_difference(a, b).standard_error < unpaired / 4


def test_mean_difference_weighs_tasks_equally():
    tasks = [
        statistics.Difference(0.4, 0.1, 5, 1, 10),
        statistics.Difference(0.0, 0.2, 2, 2, 40),
    ]
    got = statistics.mean_difference(tasks)
    assert got.difference == pytest.approx(0.2)
    assert got.standard_error == pytest.approx(math.sqrt(0.01 + 0.04) / 2)
    assert (got.won, got.lost, got.problems) == (7, 3, 50)


def test_the_interval_of_shares_is_that_of_their_mean():
    """Of problems that are solved or not it is Wilson's, as always."""
    solved = [1.0, 0.0, 1.0, 1.0]
    assert statistics.score_interval(solved) == statistics.wilson(0.75, 4)
    shares = [0.2, 0.4, 0.6, 0.8]
    low, high = statistics.score_interval(shares)
    half = statistics.Z95 * np.std(shares, ddof=1) / 2
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
    assert statistics.score_interval([0.9, 0.99]).high == 1
