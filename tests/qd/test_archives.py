import jax
import numpy as np
import pytest

from cycleqd_jax.qd.archives import (
    SCORES,
    SMOOTH,
    Status,
    empty_archives,
    occupied,
)
from cycleqd_jax.qd.cells import behaviour_bins
from cycleqd_jax.qd.selection import make_selector

RANGES = ((0.0, 1.0),) * 3


def test_an_elite_is_replaced_only_by_a_strictly_better_one():
    archives = empty_archives(RANGES, 4)
    archives, status = archives.offer(0, [0.5, 0.1, 0.1])
    assert status == (Status.NEW,) * 3
    archives, status = archives.offer(1, [0.5, 0.1, 0.1])
    assert status == (Status.REJECTED,) * 3  # equal quality keeps the first
    archives, status = archives.offer(2, [0.5, 0.2, 0.1])
    # Archive 0: same cell, same quality. Archive 1: better. Archive 2: same quality.
    assert status == (Status.REJECTED, Status.IMPROVED, Status.REJECTED)
    archives, status = archives.offer(3, [0.5, 0.15, 0.9])
    assert status == (Status.NEW, Status.NEW, Status.IMPROVED)
    assert sorted(archives.ids(0)) == [0, 3]
    assert sorted(archives.ids(1)) == [2, 3]
    assert archives.ids(2).tolist() == [3]
    assert archives.kept_ids() == {0, 2, 3}


def brute_force(individuals, ranges, bins):
    """MAP-Elites with dictionaries: per archive, bins -> (id, scores)."""
    grids = [{} for _ in ranges]
    for individual, scores in individuals:
        for task, grid in enumerate(grids):
            place = behaviour_bins(scores, ranges, bins, task)
            if place not in grid or scores[task] > grid[place][1][task]:
                grid[place] = (individual, scores)
    return grids


@pytest.mark.parametrize("num_tasks", [2, 3, 4, 5])
def test_equals_map_elites_with_dictionaries(num_tasks):
    """Many ties (scores are multiples of 1/4), 120 individuals, 3 bins."""
    rng = np.random.default_rng(num_tasks)
    ranges = tuple((0.1 * k, 0.6 + 0.1 * k) for k in range(num_tasks))
    individuals = [
        (i, (rng.integers(0, 5, num_tasks) / 4).tolist()) for i in range(120)
    ]
    archives = empty_archives(ranges, 3)
    for individual, scores in individuals:
        archives, _ = archives.offer(individual, scores)
    for task, grid in enumerate(brute_force(individuals, ranges, 3)):
        repertoire = archives.repertoires[task]
        assert repertoire.fitnesses.shape == (3 ** (num_tasks - 1), 1)
        filled = np.flatnonzero(np.asarray(repertoire.fitnesses)[:, 0] > -np.inf)
        got = {
            tuple(archives.cell_bins(task)[cell].tolist()): (
                int(repertoire.genotypes[cell]),
                np.asarray(repertoire.extra_scores[SCORES])[cell].tolist(),
            )
            for cell in filled
        }
        assert got == grid
        assert [float(repertoire.fitnesses[c, 0]) for c in filled] == [
            np.asarray(repertoire.extra_scores[SCORES])[c, task] for c in filled
        ]


def brute_force_pairs(individuals, ranges, bins):
    """The same by (score, smooth score); a missing smooth score loses every tie."""
    grids = [{} for _ in ranges]
    for individual, scores, smooth in individuals:
        for task, grid in enumerate(grids):
            place = behaviour_bins(scores, ranges, bins, task)
            likely = -np.inf if np.isnan(smooth[task]) else np.float32(smooth[task])
            pair = (scores[task], likely)
            if place not in grid or pair > grid[place][1]:
                grid[place] = (individual, pair)
    return grids


@pytest.mark.parametrize("num_tasks, seed", [(2, 0), (3, 1), (3, 2), (4, 3)])
def test_pairs_equal_map_elites_with_dictionaries(num_tasks, seed):
    """Ties in both numbers; one task has no smooth scores, others lack some."""
    rng = np.random.default_rng(seed)
    ranges = ((0.0, 1.0),) * num_tasks
    individuals = []
    for i in range(150):
        smooth = -rng.integers(1, 20, num_tasks) / 7.0
        smooth[rng.random(num_tasks) < 0.1] = np.nan
        smooth[-1] = np.nan
        scores = (rng.integers(0, 3, num_tasks) / 2).tolist()
        individuals.append((i, scores, smooth.tolist()))
    archives, decided = empty_archives(ranges, 2, smooth=True), 0
    plain = empty_archives(ranges, 2)
    for individual, scores, smooth in individuals:
        archives, statuses = archives.offer(individual, scores, smooth)
        plain, without = plain.offer(individual, scores, smooth)
        decided += sum(
            one is Status.IMPROVED and other is Status.REJECTED
            for one, other in zip(statuses, without, strict=True)
        )
    assert decided >= 3  # smooth scores decided some of them
    for task, grid in enumerate(brute_force_pairs(individuals, ranges, 2)):
        repertoire = archives.repertoires[task]
        got = {
            tuple(archives.cell_bins(task)[cell].tolist()): (
                int(repertoire.genotypes[cell]),
                (
                    float(repertoire.fitnesses[cell, 0]),
                    float(repertoire.extra_scores[SMOOTH][cell]),
                ),
            )
            for cell in np.flatnonzero(np.asarray(repertoire.fitnesses)[:, 0] > -np.inf)
        }
        assert got == grid
    for task, grid in enumerate(brute_force([i[:2] for i in individuals], ranges, 2)):
        assert sorted(plain.ids(task)) == sorted(i for i, _ in grid.values())
        assert list(plain.repertoires[task].extra_scores) == [SCORES]


def numpy_cells(individuals, ranges, bins):
    """Archives with retention as the last behaviour: per task, bins -> (id, values)."""
    edges = [np.linspace(low, high, bins + 1) for low, high in ranges]
    grids = [{} for _ in ranges[:-1]]
    for individual, values in individuals:
        found = [
            np.digitize(v, e, right=True) - 1
            for v, e in zip(values, edges, strict=True)
        ]
        found = np.clip(found, 0, bins - 1).tolist()
        for task, grid in enumerate(grids):
            place = (*found[:task], *found[task + 1 :])
            if place not in grid or values[task] > grid[place][1][task]:
                grid[place] = (individual, values)
    return grids


@pytest.mark.parametrize("num_tasks", [2, 3])
def test_retention_is_one_more_dimension_and_one_more_score(num_tasks):
    rng = np.random.default_rng(num_tasks)
    ranges, retention = ((0.0, 1.0),) * num_tasks, (0.6, 0.95)
    individuals = [
        (i, [*(rng.integers(0, 5, num_tasks) / 4).tolist(), rng.uniform(0.5, 1.0)])
        for i in range(150)
    ]
    archives = empty_archives(ranges, 3, retention=retention)
    plain = ignoring = empty_archives(ranges, 3)
    for i, (*scores, share) in individuals:
        archives, _ = archives.offer(i, scores, retention=share)
        ignoring, _ = ignoring.offer(i, scores, retention=share)
        plain, _ = plain.offer(i, scores)
    jax.tree.map(np.testing.assert_array_equal, ignoring, plain)
    for task, grid in enumerate(numpy_cells(individuals, (*ranges, retention), 3)):
        repertoire = archives.repertoires[task]
        assert repertoire.fitnesses.shape == (3**num_tasks, 1)
        filled = np.flatnonzero(occupied(repertoire))
        places = [tuple(row) for row in archives.cell_bins(task)[filled].tolist()]
        ids = np.asarray(repertoire.genotypes)[filled].tolist()
        assert dict(zip(places, ids, strict=True)) == {
            place: individual for place, (individual, _) in grid.items()
        }
        kept = np.asarray([grid[place][1] for place in places])
        stored = np.asarray(repertoire.extra_scores[SCORES])[filled]
        np.testing.assert_array_equal(stored, kept.astype(np.float32))
        spread = np.ptp(kept, axis=0)
        varied = kept[:, spread > 0]  # a score that is equal for all counts as 1
        scaled = (varied - varied.min(0)) / spread[spread > 0]
        weights = make_selector("elite", alpha_low=0.5, alpha_high=0.8)
        got = np.asarray(weights.weights(repertoire))[filled]
        np.testing.assert_allclose(got, (0.5 + 0.3 * scaled).prod(1), rtol=1e-5)


@pytest.mark.parametrize("retention", [None, float("nan"), -0.1, 1.1])
def test_retention_is_asked_for_where_it_is_a_behaviour(retention):
    archives = empty_archives(RANGES, 3, retention=(0.5, 1.0))
    with pytest.raises(ValueError, match="retention: expected a number"):
        archives.offer(0, [0.5] * 3, retention=retention)


@pytest.mark.parametrize("smooth", [[-0.5, -0.5], [-0.5, -0.5, -np.inf]])
def test_bad_smooth_scores_are_refused(smooth):
    with pytest.raises(ValueError, match="expected 3 finite numbers or NaN"):
        empty_archives(RANGES, 3, smooth=True).offer(0, [0.5] * 3, smooth)


def test_order_decides_between_equals():
    one, _ = empty_archives(RANGES, 2).offer(7, [0.5, 0.5, 0.5])
    one, _ = one.offer(8, [0.5, 0.4, 0.5])
    other, _ = empty_archives(RANGES, 2).offer(8, [0.5, 0.4, 0.5])
    other, _ = other.offer(7, [0.5, 0.5, 0.5])
    assert one.ids(0).tolist() == [7] and other.ids(0).tolist() == [8]
    assert one.ids(1).tolist() == other.ids(1).tolist() == [7]


def test_repertoires_do_not_share_arrays_and_can_be_donated():
    archives = empty_archives(RANGES, 3)
    step = jax.jit(
        lambda reps: jax.tree.map(lambda leaf: leaf + 0, reps), donate_argnums=0
    )
    out = step(archives.repertoires)
    assert len(out) == 3 and np.asarray(out[0].centroids).shape == (9, 2)


@pytest.mark.parametrize("scores", [[0.5, 0.5], [0.5, 0.5, 1.1], [0.5, 0.5, np.nan]])
def test_bad_scores_are_refused(scores):
    with pytest.raises(ValueError, match=r"expected 3 numbers in \[0, 1\]"):
        empty_archives(RANGES, 3).offer(0, scores)


def test_one_task_is_refused():
    with pytest.raises(ValueError, match="at least two tasks"):
        empty_archives([(0.0, 1.0)], 3)
