import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qdax.core.emitters.repertoire_selectors.selector import Selector

from cycleqd_jax.qd.archives import empty_archives
from cycleqd_jax.qd.cells import bin_index
from cycleqd_jax.qd.selection import (
    EliteRefSelector,
    EliteSelector,
    RandomSelector,
    draw_pair,
    make_selector,
)

ROWS = [[0.9, 0.1, 0.5], [0.3, 0.9, 0.5], [0.6, 0.5, 0.5], [0.1, 0.4, 0.5]]


def filled(rows=ROWS):
    archives = empty_archives([(0.0, 1.0)] * 3, 5)
    for i, scores in enumerate(rows):
        archives, _ = archives.offer(i, scores)
    return archives.repertoires[0]


@functools.partial(jax.jit, static_argnums=(0, 3))
def select(selector, repertoire, key, num_samples):
    return selector.select(repertoire, key, num_samples)


def exact_weights(rows, low, high):
    """The rule of the module docstring, in float64."""
    rows = np.asarray(rows)
    weights = np.ones(len(rows))
    for column in rows.T:
        if column.max() > column.min():
            share = (column - column.min()) / (column.max() - column.min())
            weights *= low + share * (high - low)
    return weights


def pair_probabilities(weights):
    """Of every ordered pair, drawn one after the other without replacement."""
    p = weights / weights.sum()
    return {
        (i, j): p[i] * p[j] / (1 - p[i])
        for i, j in itertools.permutations(range(len(p)), 2)
    }


@pytest.mark.parametrize("low, high", [(0.5, 0.8), (0.2, 1.0)])
def test_weights_follow_the_rule(low, high):
    repertoire = filled()
    weights = np.asarray(EliteSelector(low, high).weights(repertoire))
    cells = np.flatnonzero(np.asarray(repertoire.fitnesses)[:, 0] > -np.inf)
    by_id = dict(
        zip(np.asarray(repertoire.genotypes)[cells], weights[cells], strict=True)
    )
    want = exact_weights(ROWS, low, high)
    np.testing.assert_allclose([by_id[i] for i in range(4)], want, rtol=1e-6)
    assert weights.sum() == pytest.approx(want.sum(), rel=1e-6)  # empty cells: 0


def test_a_golden_weight_by_hand():
    """Elite 0: quality the highest (0.8), first behaviour the lowest (0.5), third 1."""
    repertoire = filled()
    weights = np.asarray(EliteSelector(0.5, 0.8).weights(repertoire))
    cell = int(np.asarray(repertoire.fitnesses)[:, 0].argmax())
    assert weights[cell] == pytest.approx(0.8 * 0.5 * 1.0)


def test_pairs_are_drawn_with_the_exact_probabilities():
    """Chi-square over the 12 ordered pairs of 4 elites, 60 000 draws."""
    draws = 60_000
    selected = select(EliteSelector(0.2, 1.0), filled(), jax.random.key(0), 2 * draws)
    pairs = np.asarray(selected.genotypes).reshape(draws, 2)
    statistic = 0.0
    for (i, j), p in pair_probabilities(exact_weights(ROWS, 0.2, 1.0)).items():
        observed = ((pairs[:, 0] == i) & (pairs[:, 1] == j)).sum()
        statistic += (observed - draws * p) ** 2 / (draws * p)
    assert statistic < 31.3  # 11 degrees of freedom, 0.1 %
    assert (pairs[:, 0] != pairs[:, 1]).all()


def test_a_single_elite_is_both_parents():
    selected = select(EliteSelector(), filled(ROWS[:1]), jax.random.key(0), 6)
    assert selected.genotypes.tolist() == [0] * 6


def test_two_elites_are_always_both_drawn():
    selected = select(EliteSelector(), filled(ROWS[:2]), jax.random.key(0), 40)
    pairs = np.asarray(selected.genotypes).reshape(-1, 2)
    assert set(map(tuple, pairs.tolist())) == {(0, 1), (1, 0)}


def test_it_is_a_qdax_selector_and_jits():
    selector = EliteSelector()
    assert isinstance(selector, Selector)
    repertoire, key = filled(), jax.random.key(4)
    eager = repertoire.select(key, 8, selector)
    jitted = jax.jit(lambda r, k: r.select(k, 8, selector))(repertoire, key)
    assert eager.genotypes.tolist() == jitted.genotypes.tolist()
    assert eager.genotypes.dtype == jitted.genotypes.dtype == jnp.int32
    assert eager.extra_scores["scores"].shape == (8, 3)
    for num_samples in (0, 3):
        with pytest.raises(ValueError, match="even number"):
            selector.select(repertoire, key, num_samples)


def test_cells_without_weight_are_never_drawn():
    weights = jnp.asarray([0.0, 1.0, 0.0, 1e-30, 0.0])
    keys = jax.random.split(jax.random.key(0), 500)
    pairs = np.asarray(jax.jit(jax.vmap(lambda k: draw_pair(weights, k)))(keys))
    assert set(map(tuple, pairs.tolist())) == {(1, 3)}


def test_reference_weights_are_those_of_the_published_code():
    """0.5 + (f - f_min) * 0.8 / (f_max - f_min), on quality and bin indices."""
    repertoire = filled()
    weights = np.asarray(EliteRefSelector(0.5, 0.8).weights(repertoire))
    cells = np.flatnonzero(np.asarray(repertoire.fitnesses)[:, 0] > -np.inf)
    by_id = dict(
        zip(np.asarray(repertoire.genotypes)[cells], weights[cells], strict=True)
    )
    values = np.asarray(ROWS)
    for task in (1, 2):
        values[:, task] = [bin_index(score, (0.0, 1.0), 5) for score in values[:, task]]
    want = np.ones(4)
    for column in values.T:
        if column.max() > column.min():
            span = column.max() - column.min()
            want *= 0.5 + (column - column.min()) * 0.8 / span
    np.testing.assert_allclose([by_id[i] for i in range(4)], want, rtol=1e-6)
    assert want.max() > 0.8**2  # beyond what the paper's rule gives with two that vary
    assert np.isfinite(weights).all() and weights.sum() == pytest.approx(want.sum())


def test_random_selection_is_uniform():
    """Chi-square over the 12 ordered pairs of 4 elites, 60 000 draws."""
    draws = 60_000
    selected = select(RandomSelector(), filled(), jax.random.key(0), 2 * draws)
    pairs = np.asarray(selected.genotypes).reshape(draws, 2)
    counts = [
        ((pairs[:, 0] == i) & (pairs[:, 1] == j)).sum()
        for i, j in itertools.permutations(range(4), 2)
    ]
    expected = draws / 12
    assert sum((c - expected) ** 2 / expected for c in counts) < 31.3
    assert sum(counts) == draws


@pytest.mark.parametrize("name", ["elite", "elite_ref", "random"])
def test_every_selector_copes_with_one_elite_and_with_equal_ones(name):
    selector = make_selector(name, alpha_low=0.5, alpha_high=0.8)
    selected = select(selector, filled(ROWS[:1]), jax.random.key(0), 4)
    assert selected.genotypes.tolist() == [0] * 4
    selected = select(selector, filled(ROWS[:2]), jax.random.key(0), 20)
    pairs = np.asarray(selected.genotypes).reshape(-1, 2)
    assert set(map(tuple, pairs.tolist())) == {(0, 1), (1, 0)}
    with pytest.raises(ValueError, match="selection: expected elite"):
        make_selector("best", alpha_low=0.5, alpha_high=0.8)
