"""Batches of one shape, plain and packed, and the order of their examples."""

import collections

import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.dialogues import Example
from cycleqd_jax.training.batches import Batches, Order, packed


def learnt_pairs(batch):
    """(token before, token learnt) of every target, sorted."""
    found = []
    for row in range(len(batch.tokens)):
        kept = batch.mask[row] > 0
        at = batch.positions[row][kept]
        tokens, targets = batch.tokens[row], batch.targets[row][kept]
        assert (tokens[at + 1] == targets).all()
        found += zip(tokens[at].tolist(), targets.tolist(), strict=True)
    return sorted(found)


def test_targets_are_the_tokens_after_the_positions():
    examples = [Example((1, 2, 3, 4, 5), (2, 3, 4)), Example((6, 7, 8), (1, 2))]
    batch = Batches([examples], [1.0], batch_size=2, steps=1, seed=0).at(1)
    assert learnt_pairs(batch) == [(2, 3), (3, 4), (4, 5), (6, 7), (7, 8)]
    assert batch.tokens.shape == (2, 5) and batch.positions.shape == (2, 3)
    assert batch.segments is None


def test_a_packed_batch_learns_what_the_plain_one_does(uneven):
    settings = {"batch_size": 5, "steps": 6, "seed": 2}
    plain = Batches([uneven], [1.0], **settings)
    dense = Batches([uneven], [1.0], packing=True, multiple_of=2, **settings)
    assert dense.rows < plain.rows == 5 and dense.rows % 2 == 0
    shapes = set()
    for step in range(1, 7):
        one, other = plain.at(step), dense.at(step)
        assert learnt_pairs(one) == learnt_pairs(other)
        shapes.add(tuple(x.shape for x in other))
    assert len(shapes) == 1


def test_packed_dialogues_have_their_own_segments_and_positions(uneven):
    batches = Batches([uneven], [1.0], batch_size=8, steps=1, seed=0, packing=True)
    batch = batches.at(1)
    sizes = []
    for row in range(batches.rows):
        for segment in range(1, batch.segments[row].max() + 1):
            at = np.flatnonzero(batch.segments[row] == segment)
            assert (np.diff(at) == 1).all()
            assert batch.segment_positions[row][at].tolist() == list(range(len(at)))
            sizes.append(len(at))
        assert (batch.tokens[row][batch.segments[row] == 0] == 0).all()
    assert sorted(sizes) == sorted(len(e.tokens) for e in uneven)


def test_rows_are_filled_and_never_overfilled(uneven):
    rows = packed(uneven, 19)
    assert sum(len(row) for row in rows) == len(uneven)
    assert all(sum(len(e.tokens) for e in row) <= 19 for row in rows)
    assert len(rows) == 4  # 72 tokens


def test_batches_can_be_asked_for_in_any_order(uneven):
    settings = {"batch_size": 3, "steps": 9, "seed": 5}
    first = Batches([uneven], [1.0], **settings)
    second = Batches([uneven], [1.0], **settings)
    late = second.at(9)
    for got, want in zip(late, [first.at(s) for s in range(1, 10)][-1], strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("sources", [[], [[]], [[Example((1, 2), (1,))], []]])
def test_sources_without_examples_are_refused(sources):
    with pytest.raises(BadInputError, match="no examples"):
        Batches(sources, [1.0] * len(sources), batch_size=1, steps=1, seed=0)


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
