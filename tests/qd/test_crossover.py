import functools

import jax
import numpy as np
import pytest

from cycleqd_jax.merging.genome import Genome, expert_genome, stack_genomes
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.qd.crossover import crossover_step, draw_weights
from cycleqd_jax.qd.variation import add


def crossed(x1, x2, weights):
    """As `propose` crosses parents."""
    return add(x1, crossover_step(x1, x2, weights))


@pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_dense_definition(make, kind, seed):
    """Weights of the child against float64 sums of weights; both share the draw."""
    problem = make.problem(kind, seed)
    weights = draw_weights(jax.random.key(seed), mean=1.0, std=0.2)
    first = expert_genome(problem.basis, 0)
    second = expert_genome(problem.basis, 1)
    child = crossed(first, second, weights)
    # A second crossing, so that a parent is not an expert.
    child = crossed(child, expert_genome(problem.basis, 2), weights[::-1])
    got = materialise(problem.base, problem.basis, child)
    w1, w2 = np.asarray(weights, np.float64)
    for name, base in problem.base.items():
        tau = [t[name] for t in problem.taus]
        once = (w1 * tau[0] + w2 * tau[1]) / (w1 + w2)
        want = base.astype(np.float64) + (w2 * once + w1 * tau[2]) / (w1 + w2)
        np.testing.assert_allclose(got[name], want, atol=1e-5 * np.abs(want).max())


def test_a_batch_matches_reference():
    """SakanaAI/CycleQD:crossover/model_linear.py, re-derived in NumPy, for a batch."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4, 15)).astype(np.float32)
    c, d = rng.standard_normal((2, 4, 3)).astype(np.float32)
    raw = (1 + 0.03 * rng.standard_normal((4, 2))).astype(np.float32)
    got = crossed(Genome(a, c), Genome(b, d), raw)
    w1, w2 = raw[:, :1].astype(np.float64), raw[:, 1:].astype(np.float64)
    want = (w1 * a + w2 * b) / (w1 + w2)
    np.testing.assert_allclose(got.coefficients, want, rtol=1e-5, atol=1e-6)
    want = (w1 * c + w2 * d) / (w1 + w2)
    np.testing.assert_allclose(got.scales, want, rtol=1e-5, atol=1e-6)


def test_equal_parents_give_the_parent_bit_for_bit(make):
    basis = make.problem("mixed").basis
    parent = make.genome(basis)
    for seed in range(20):
        weights = draw_weights(jax.random.key(seed), mean=1.0, std=0.2)
        child = crossed(parent, parent, weights)
        np.testing.assert_array_equal(child.coefficients, parent.coefficients)
        np.testing.assert_array_equal(child.scales, parent.scales)


def test_weights_have_the_stated_distribution():
    keys = jax.random.split(jax.random.key(0), 20000)
    raw = np.asarray(jax.vmap(lambda k: draw_weights(k, mean=1.0, std=0.03))(keys))
    assert raw.shape == (20000, 2)
    np.testing.assert_allclose(raw.mean(axis=0), 1.0, atol=5 * 0.03 / 20000**0.5)
    np.testing.assert_allclose(raw.std(axis=0), 0.03, rtol=0.03)
    share = raw[:, 0] / raw.sum(axis=1)
    assert share.std() == pytest.approx(0.0106, rel=0.03)  # 0.03 / sqrt(8)
    assert abs(np.corrcoef(raw.T)[0, 1]) < 0.03


def test_batches_and_jit_equal_one_by_one_and_keep_dtypes(make):
    basis = make.problem("mixed").basis
    x1, x2 = make.genome(basis, 1, (3,)), make.genome(basis, 2, (3,))
    keys = jax.random.split(jax.random.key(3), 3)
    draw = functools.partial(draw_weights, mean=1.0, std=0.03)
    weights = jax.jit(jax.vmap(draw))(keys)
    together = add(x1, jax.jit(crossover_step)(x1, x2, weights))
    alone = stack_genomes([crossed(x1[i], x2[i], draw(keys[i])) for i in range(3)])
    np.testing.assert_allclose(
        together.coefficients, alone.coefficients, rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(together.scales, alone.scales, rtol=1e-6, atol=1e-7)
    assert together.coefficients.dtype == together.scales.dtype == np.float32
    assert not np.allclose(together.coefficients[0], x1.coefficients[0])


def test_parents_of_other_shapes_are_refused(make):
    basis = make.problem("lora").basis
    with pytest.raises(ValueError, match="x2: expected the shapes of x1"):
        crossover_step(make.genome(basis), make.genome(basis, 0, (2,)), np.ones(2))
