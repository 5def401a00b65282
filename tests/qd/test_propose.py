import jax
import numpy as np
import pytest

from cycleqd_jax.qd.archives import empty_archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.crossover import draw_weights
from cycleqd_jax.qd.mutation import draw_steps
from cycleqd_jax.qd.propose import _draw_parents, propose
from cycleqd_jax.qd.schedule import generation_keys
from cycleqd_jax.qd.settings import QDSettings

SETTINGS = QDSettings()


@pytest.fixture
def state(make):
    basis = make.problem("mixed").basis
    return (*make.run(basis), basis)


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(2))
def test_a_child_does_not_depend_on_its_batch(state, seed):
    """Bit for bit: in eights, in threes, one at a time, and in another order."""
    key, ts = jax.random.key(seed), list(range(1, 17))

    def in_batches(ts, size):
        parts = [
            propose(*state, key, ts[i : i + size], settings=SETTINGS)
            for i in range(0, len(ts), size)
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    eights = in_batches(ts, 8)
    for size in (1, 3):
        assert_same(in_batches(ts, size), eights)
    backwards = in_batches(ts[::-1], 8)
    assert_same(jax.tree.map(lambda leaf: leaf[::-1], backwards), eights)


def test_children_are_what_the_operators_say(state):
    """Each child from its parents, weights and steps, in float64."""
    archives, bank, basis = state
    key, ts = jax.random.key(3), [1, 2, 3, 14]
    got = propose(archives, bank, basis, key, ts, settings=SETTINGS)
    assert got.active.tolist() == [1, 2, 0, 2]
    s = np.asarray(basis.singular_values, np.float64)
    owner = np.asarray(basis.experts_of)
    for i, t in enumerate(ts):
        task, (p1, p2) = int(got.active[i]), got.parents[i].tolist()
        assert p1 != p2 and {p1, p2} <= set(archives.ids(task).tolist())
        keys = generation_keys(key, t)
        weights = draw_weights(keys.crossover, mean=1.0, std=0.03)
        np.testing.assert_array_equal(got.weights[i], weights)
        w1, w2 = np.asarray(weights, np.float64)
        steps = np.asarray(draw_steps(keys.mutation, s.size, w_max=0.3), np.float64)
        x1, x2 = bank.genome(p1), bank.genome(p2)
        want = (w1 * x1.coefficients + w2 * x2.coefficients) / (w1 + w2)
        want = want + np.where(owner == task, steps * s, 0)
        np.testing.assert_allclose(
            got.genomes.coefficients[i], want, rtol=1e-5, atol=1e-5
        )
        want = (w1 * x1.scales + w2 * x2.scales) / (w1 + w2)
        np.testing.assert_allclose(got.genomes.scales[i], want, rtol=1e-5, atol=1e-6)


def test_golden_values(state):
    """Draws of seed 0, so that a change of keys or of the order of draws is seen."""
    got = propose(*state, jax.random.key(0), [1, 2, 3], settings=SETTINGS)
    assert got.parents.tolist() == GOLDEN_PARENTS
    np.testing.assert_allclose(got.weights, GOLDEN_WEIGHTS, rtol=1e-5)
    np.testing.assert_allclose(
        got.genomes.coefficients[:, ::6][:, :3], GOLDEN_COEFFICIENTS, rtol=1e-4
    )


GOLDEN_PARENTS = [[5, 6], [3, 9], [3, 8]]
GOLDEN_WEIGHTS = [[0.95993, 0.98942], [1.01983, 0.98804], [1.03097, 1.0045]]
GOLDEN_COEFFICIENTS = [
    [0.6742, -1.0805, 0.0222],
    [0.17613, -0.24313, -0.1799],
    [1.85427, 0.05068, -0.79083],
]  # the first of each expert, first matrix


def test_dtypes_and_shapes(state):
    got = propose(*state, jax.random.key(1), [1, 2], settings=SETTINGS)
    assert got.parents.dtype == got.active.dtype == np.int32
    assert got.weights.dtype == np.float32
    assert got.genomes.coefficients.dtype == got.genomes.scales.dtype == np.float32
    assert got.genomes.coefficients.shape == (2, state[2].genome_size)
    assert got.parents.shape == got.weights.shape == (2, 2)


def test_seed_settings_and_bank_size(state):
    archives, bank, basis = state
    key = jax.random.key(0)
    base = propose(archives, bank, basis, key, [1, 2], settings=SETTINGS)
    other = propose(archives, bank, basis, jax.random.key(1), [1, 2], settings=SETTINGS)
    assert not np.array_equal(base.weights, other.weights)
    pruned = bank.prune(archives.kept_ids())
    assert_same(propose(archives, pruned, basis, key, [1, 2], settings=SETTINGS), base)
    still = QDSettings(mutation="none", crossover_std=0.0)
    middle = propose(archives, bank, basis, key, [1], settings=still)
    pair = bank.gather(base.parents[0])
    np.testing.assert_allclose(
        middle.genomes.coefficients[0], pair.coefficients.mean(axis=0), atol=1e-6
    )
    slow = QDSettings(flip_interval=5)
    assert propose(*state, key, [4, 5], settings=slow).active.tolist() == [0, 1]


def test_mutation_follows_the_active_tasks_expert(state):
    """Archive 0 has no expert, archives 1 and 2 have each other's."""
    key, ts = jax.random.key(0), [3, 1, 2]  # of archives 0, 1 and 2
    still = propose(*state, key, ts, settings=QDSettings(mutation="none"))
    own = propose(*state, key, ts, settings=SETTINGS, experts=(-1, 2, 1))
    moved = np.asarray(own.genomes.coefficients != still.genomes.coefficients)
    owner = np.asarray(state[2].experts_of)
    experts = [set(owner[row].tolist()) for row in moved]
    assert experts == [{0, 1, 2}, {2}, {1}] and own.active.tolist() == [0, 1, 2]
    same = propose(*state, key, ts, settings=SETTINGS, experts=(0, 1, 2))
    assert_same(same, propose(*state, key, ts, settings=SETTINGS))


def test_a_single_elite_mates_with_itself(make):
    basis = make.problem("lora").basis
    bank = make.run(basis, num_children=0)[1]
    archives, _ = empty_archives([(0.0, 1.0)] * 3, 5).offer(2, [0.5, 0.5, 0.5])
    quiet = QDSettings(mutation="none")
    got = propose(archives, bank, basis, jax.random.key(0), [1, 2, 3], settings=quiet)
    assert got.parents.tolist() == [[2, 2]] * 3
    for i in range(3):
        np.testing.assert_array_equal(
            got.genomes.coefficients[i], bank.genome(2).coefficients
        )


def test_wrong_calls_are_refused(state):
    archives, bank, basis = state
    key = jax.random.key(0)
    for ts in ([], [0, 1]):
        with pytest.raises(ValueError, match="generations from 1 on"):
            propose(archives, bank, basis, key, ts, settings=SETTINGS)
    empty = empty_archives(archives.ranges, 5)
    with pytest.raises(ValueError, match=r"an elite in archive 1.* it is empty"):
        propose(empty, Bank.empty(3), basis, key, [1], settings=SETTINGS)


@pytest.mark.parametrize(
    "name, value",
    [
        ("flip_interval", 0),
        ("selection", "best"),
        ("alpha_low", 0.0),
        ("alpha_high", 0.4),
        ("crossover_mean", 0.0),
        ("crossover_std", 0.21),
        ("mutation", "cma"),
        ("w_max", -0.1),
    ],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name}(.|\n)*{value!r}"):
        QDSettings(**{name: value})


def test_other_lengths_and_batches_do_not_compile_again(state):
    key, few = jax.random.key(0), QDSettings(num_generations=7, w_max=0.1)
    propose(*state, key, [1, 2], settings=SETTINGS)
    compiled = _draw_parents._cache_size()
    propose(*state, key, [3, 4], settings=few)
    assert _draw_parents._cache_size() == compiled
    propose(*state, key, [3, 4], settings=QDSettings(alpha_low=0.4))
    assert _draw_parents._cache_size() == compiled + 1
