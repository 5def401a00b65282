"""The order of examples: shares, epochs, and that any part of it can be asked for."""

import collections

import numpy as np
import pytest

from cycleqd_jax.training.order import Order


def test_one_source_is_shuffled_anew_every_epoch():
    flat = [p.example for p in Order([6], [1.0], seed=1).picks(0, 12)]
    assert sorted(flat[:6]) == sorted(flat[6:]) == list(range(6))
    assert flat[:6] != flat[6:]


def test_one_source_is_the_plain_sequence_of_permutations():
    rng = np.random.default_rng(7)
    want = np.concatenate([rng.permutation(5) for _ in range(4)]).tolist()
    assert [p.example for p in Order([5], [3.0], seed=7).picks(0, 20)] == want


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1, 3), (0.2, 0.3, 0.5), (1, 1000)])
def test_every_source_has_its_share_at_any_time(weights):
    picks = Order([3] * len(weights), weights, seed=0).picks(0, 400)
    counts = collections.Counter()
    for number, pick in enumerate(picks, start=1):
        counts[pick.source] += 1
        for source, weight in enumerate(weights):
            assert abs(counts[source] - number * weight / sum(weights)) <= 1 + 1e-9


def test_sources_are_shuffled_apart():
    picks = Order([50, 50], [1, 1], seed=0).picks(0, 100)
    first, second = ([p.example for p in picks if p.source == s] for s in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_any_part_is_the_same_whatever_was_asked_before():
    straight = Order([5, 9], [1, 2], seed=3).picks(0, 60)
    late = Order([5, 9], [1, 2], seed=3)
    assert late.picks(40, 20) == straight[40:]
    assert late.picks(0, 40) == straight[:40]
    assert Order([5, 9], [1, 2], seed=4).picks(0, 60) != straight
