import itertools
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from qdax.core.containers.mapelites_repertoire import (
    compute_euclidean_centroids,
    get_cells_indices,
)

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.qd import cells
from cycleqd_jax.qd.archives import SCORES, empty_archives

BINS = 15
NAMED = [(0.0, 0.45), (0.0, 0.75), (0.0, 1.0), (0.0, 1.15)]
FRACTIONS = sorted({Fraction(k, n) for n in range(1, 401) for k in range(n + 1)})
SCORES_KN = np.asarray([float(f) for f in FRACTIONS])  # 48 679 scores


def random_ranges(count=200):
    """Ranges as runs have them (85 % and 115 % of fractions) and arbitrary ones."""
    rng = np.random.default_rng(0)
    ranges = []
    for i in range(count):
        if i % 2:
            ranges.append(tuple(np.sort(rng.random(2)).tolist()))
        else:
            n = int(rng.integers(4, 401))
            experts = rng.integers(1, n + 1, 2) / n
            ranges.extend(cells.relative_ranges(experts[:, None]))
    return ranges


def exact_bins(scores, score_range, bins):
    """The rule in exact arithmetic on the float64 edges, by counting lower edges.

    Comparing two float64 is exact, so this is too; `test_bin_index_in_exact_arithmetic`
    does the same with fractions.
    """
    edges = np.linspace(*score_range, bins + 1)
    below = sum((scores > edge).astype(int) for edge in edges)
    return np.clip(below - 1, 0, bins - 1)


def test_every_score_on_every_range():
    """k/n for n <= 400, on the four named ranges and 200 random ones."""
    assert len(SCORES_KN) == 48_679
    ranges = NAMED + random_ranges()
    assert len(ranges) == 204
    for score_range in ranges:
        got = cells.bin_indices(SCORES_KN, score_range, BINS)
        np.testing.assert_array_equal(got, exact_bins(SCORES_KN, score_range, BINS))
        for i in (0, 17, 24_000, len(SCORES_KN) - 1):
            one = cells.bin_index(float(SCORES_KN[i]), score_range, BINS)
            assert one == got[i] and type(one) is int


@pytest.mark.parametrize("high", ["0.45", "0.75", "1", "1.15"])
def test_agreement_with_decimal_edges(high):
    """Against edges in exact decimal arithmetic, which float64 cannot always write.

    On [0, 1.15] seven scores lie on a decimal edge whose float64 is a little lower,
    so they fall into the upper bin; everywhere else the two rules are the same.
    """
    got = cells.bin_indices(SCORES_KN, (0.0, float(high)), BINS)
    share = [f * BINS / Fraction(high) for f in FRACTIONS]
    want = [min(max(math.ceil(x) - 1, 0), BINS - 1) for x in share]
    differ = [str(f) for f, g, w in zip(FRACTIONS, got, want, strict=True) if g != w]
    if high == "1.15":
        assert differ == "23/100 23/60 23/50 23/30 253/300 23/25 299/300".split()
    else:
        assert differ == []


@pytest.mark.parametrize("score_range", NAMED + random_ranges(8))
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_bin_index_in_exact_arithmetic(score_range, bins):
    """Scores on an edge and their float neighbours, compared as fractions."""
    edges = np.linspace(*score_range, bins + 1).tolist()
    for i, edge in enumerate(edges):
        for score in (edge, np.nextafter(edge, -9), np.nextafter(edge, 9)):
            lower = sum(Fraction(e) < Fraction(float(score)) for e in edges)
            want = min(max(lower - 1, 0), bins - 1)
            assert cells.bin_index(float(score), score_range, bins) == want
        # In words: on the edge is the lower bin, just above it the upper.
        assert cells.bin_index(edge, score_range, bins) == max(i - 1, 0)
        above = float(np.nextafter(edge, 9))
        assert cells.bin_index(above, score_range, bins) == min(i, bins - 1)


@pytest.mark.parametrize("num_descriptors", [1, 2, 3])
def test_qdax_finds_every_cell_of_bin_indices(num_descriptors):
    """All 15, 225 and 3375 combinations of bins, through the real repertoire."""
    archives = empty_archives([(0.0, 1.0)] * (num_descriptors + 1), BINS)
    repertoire = archives.repertoires[0]
    combinations = np.asarray(
        list(itertools.product(range(BINS), repeat=num_descriptors)), np.float32
    )
    found = np.asarray(
        get_cells_indices(jnp.asarray(combinations), repertoire.centroids)
    )
    np.testing.assert_array_equal(archives.cell_bins(0)[found], combinations)
    assert len(set(found.tolist())) == BINS**num_descriptors
    # And `add` puts each into its own cell.
    count = len(combinations)
    filled = repertoire.add(
        jnp.arange(count, dtype=jnp.int32),
        jnp.asarray(combinations),
        jnp.zeros(count),
        {SCORES: jnp.zeros((count, num_descriptors + 1))},
    )
    ids = np.asarray(filled.genotypes)
    np.testing.assert_array_equal(ids[found], np.arange(count))
    np.testing.assert_array_equal(combinations[ids].astype(int), archives.cell_bins(0))


@pytest.mark.parametrize("num_descriptors", [1, 2, 3])
def test_scores_reach_their_cell_through_offer(num_descriptors):
    """Whole path, scores to cell, with the scores that real-valued centres misplace."""
    ranges = (NAMED * 2)[: num_descriptors + 1]
    rng = np.random.default_rng(num_descriptors)
    hard = [9 / 25, 0.03, 0.15, 0.2, 0.45, 1.0, 0.0]
    archives = empty_archives(ranges, BINS)
    for individual in range(40):
        scores = rng.choice(hard + rng.random(4).tolist(), num_descriptors + 1).tolist()
        offered, statuses = empty_archives(ranges, BINS).offer(individual, scores)
        assert statuses == ("new",) * (num_descriptors + 1)
        for task in range(num_descriptors + 1):
            cell = int(
                np.flatnonzero(np.asarray(offered.repertoires[task].fitnesses) >= 0)[0]
            )
            want = [
                int(exact_bins(np.asarray([s]), r, BINS)[0])
                for j, (s, r) in enumerate(zip(scores, ranges, strict=True))
                if j != task
            ]
            assert archives.cell_bins(task)[cell].tolist() == want


def test_real_valued_centres_would_misplace_scores():
    """Why QDax sees bin indices: 9/25 on [0, 0.45] is in bin 11, QDax alone says 12."""
    assert cells.bin_index(9 / 25, (0.0, 0.45), BINS) == 11
    centres = compute_euclidean_centroids((BINS,), minval=0.0, maxval=0.45)
    found = int(get_cells_indices(jnp.asarray([[9 / 25]]), centres)[0])
    assert found == 12


def test_relative_ranges():
    got = cells.relative_ranges([[0.2, 0.9, 0.0, 1.0], [0.6, 0.5, 0.0, 1.0]])
    assert got == (
        (0.85 * 0.2, 1.15 * 0.6),
        (0.85 * 0.5, 1.0),  # 1.035 is clipped
        (0.0, 1.0),  # no width
        (0.85, 1.0),
    )
    with pytest.raises(ValueError, match=r"numbers in \[0, 1\]"):
        cells.relative_ranges([[0.5, float("nan")]])
    with pytest.raises(ValueError, match="expected shape"):
        cells.relative_ranges([0.5, 0.5])


def test_fixed_ranges_are_checked():
    assert cells.fixed_ranges([[0, 0.75], [0, 0.45]], 2) == ((0.0, 0.75), (0.0, 0.45))
    with pytest.raises(BadInputError, match="each of 3 tasks, got 2"):
        cells.fixed_ranges([[0, 1], [0, 1]], 3)
    for bad in ([1, 0], [0.5, 0.5], [0, float("inf")], [0]):
        with pytest.raises(BadInputError, match="low below high"):
            cells.fixed_ranges([bad], 1)


def test_scores_outside_the_range_are_clipped():
    assert cells.bin_index(0.1, (0.4, 0.6), 5) == 0
    assert cells.bin_index(0.9, (0.4, 0.6), 5) == 4
    assert cells.behaviour_bins([0.5, 0.1, 0.9], [(0.4, 0.6)] * 3, 5, 0) == (0, 4)
