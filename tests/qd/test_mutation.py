import jax
import numpy as np
import pytest

from cycleqd_jax.merging.genome import uniform
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.qd.mutation import draw_steps, mutation_step


def mutated(genome, steps, active, basis):
    """The genome after mutation by given steps."""
    step = mutation_step(
        steps,
        active=active,
        singular_values=basis.singular_values,
        experts_of=basis.experts_of,
    )
    return genome.replace(coefficients=genome.coefficients + step)


@pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
@pytest.mark.parametrize("active", range(3))
def test_equals_the_dense_definition(make, kind, active):
    """Added to the weights: U diag(w * s) V^T of the active expert's dense SVD."""
    problem = make.problem(kind, seed=active)
    basis = problem.basis
    parent = uniform(basis)
    steps = draw_steps(jax.random.key(active), basis.genome_size, w_max=0.3)
    child = mutated(parent, steps, active, basis)
    got = materialise(problem.base, basis, child)
    slots = {slot.name: slot for slot in basis.layout}
    changed = False
    for name, base in problem.base.items():
        want = base.astype(np.float64) + sum(t[name] for t in problem.taus) / 3
        tau = problem.taus[active][name]
        if tau.ndim == 2 and tau.any():
            slot = slots[name]
            start = slot.offset + active * slot.rank
            u, s, vt = np.linalg.svd(tau, full_matrices=False)
            w = np.zeros_like(s)
            mine = np.asarray(steps[start : start + slot.rank], np.float64)
            w[: mine.size] = mine[: s.size]
            want = want + (u * (w * s)) @ vt
            changed = True
        np.testing.assert_allclose(got[name], want, atol=1e-5 * np.abs(want).max())
    assert changed
    np.testing.assert_array_equal(child.scales, parent.scales)


def test_only_the_active_experts_components_move_and_within_bounds(make):
    basis = make.problem("full").basis
    parent = make.genome(basis)
    steps = draw_steps(jax.random.key(1), basis.genome_size, w_max=0.3)
    child = mutated(parent, steps, 2, basis)
    moved = np.asarray(child.coefficients) - parent.coefficients
    mine = np.asarray(basis.experts_of) == 2
    assert not moved[~mine].any()
    share = moved[mine] / np.asarray(basis.singular_values)[mine]
    assert (share > -1e-5).all() and (share < 0.3 + 1e-5).all()
    assert len(np.unique(share)) == mine.sum()  # independent, not one scalar
    none = draw_steps(jax.random.key(1), basis.genome_size, w_max=0.0)
    still = mutated(parent, none, 2, basis)
    np.testing.assert_array_equal(still.coefficients, parent.coefficients)


def test_without_an_expert_of_its_own_a_task_moves_all_experts_components(make):
    basis = make.problem("mixed").basis
    steps = draw_steps(jax.random.key(1), basis.genome_size, w_max=0.3)
    still = make.genome(basis).replace(coefficients=np.zeros(basis.genome_size))
    moved = mutated(still, steps, -1, basis).coefficients
    each = [mutated(still, steps, k, basis).coefficients for k in range(3)]
    np.testing.assert_array_equal(moved, sum(each))
    assert all(np.any(one) for one in each)


def test_steps_have_the_stated_distribution():
    steps = np.asarray(draw_steps(jax.random.key(0), 20000, w_max=0.3))
    assert 0 <= steps.min() and steps.max() < 0.3
    counts, _ = np.histogram(steps, bins=10, range=(0, 0.3))
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi-square, 9 degrees, 0.1 %


def test_jit_and_vmap_equal_one_by_one_and_keep_dtypes(make):
    basis = make.problem("mixed").basis
    keys = jax.random.split(jax.random.key(3), 3)
    arrays = {
        "singular_values": basis.singular_values,
        "experts_of": basis.experts_of,
    }

    def step(key, task):
        steps = draw_steps(key, basis.genome_size, w_max=0.3)
        return mutation_step(steps, active=task, **arrays)

    together = jax.jit(jax.vmap(step))(keys, np.arange(3))
    alone = np.stack([step(keys[i], i) for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert together.dtype == np.float32
