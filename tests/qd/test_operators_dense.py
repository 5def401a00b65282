"""Operators whose genomes are not diagonal, against their dense definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.genome import (
    Genome,
    expert_genome,
    linear_combination,
    stack_genomes,
)
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.noise import (
    NoiseSource,
    noise_length,
    summed_noise,
)
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.core_mutation import child_step, num_components
from cycleqd_jax.qd.crossover import draw_weights
from cycleqd_jax.qd.mutation import draw_steps
from cycleqd_jax.qd.propose import propose
from cycleqd_jax.qd.schedule import generation_keys
from cycleqd_jax.qd.settings import QDSettings

KINDS = pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
MIX = [0.5, 0.3, -0.4]


def mixed(problem, weights):
    """The dense float64 task vectors of a weighted sum of experts."""
    pairs = list(zip(weights, problem.taus, strict=True))
    return {name: sum(w * tau[name] for w, tau in pairs) for name in problem.base}


def assert_weights(got, problem, delta):
    for name, base in problem.base.items():
        want = base.astype(np.float64) + delta[name]
        np.testing.assert_allclose(got[name], want, atol=2e-5 * np.abs(want).max())


@KINDS
def test_core_form_is_every_expert_and_every_mix(make, kind):
    problem = make.problem(kind)
    basis = core_basis(problem.basis)
    experts = [expert_genome(basis, k) for k in range(3)]
    for k, genome in enumerate(experts):
        delta = mixed(problem, np.eye(3)[k])
        assert_weights(materialise(problem.base, basis, genome), problem, delta)
    child = linear_combination(stack_genomes(experts), MIX)
    got = materialise(problem.base, basis, child)
    assert_weights(got, problem, mixed(problem, MIX))


@KINDS
@pytest.mark.parametrize("replaced", [False, True])
def test_child_svd_equals_the_dense_definition(make, kind, replaced):
    """U diag(w * s) V^T of the SVD of the child's own dense task vector."""
    problem = make.problem(kind, seed=4)
    basis = core_basis(problem.basis)
    experts = stack_genomes([expert_genome(basis, k) for k in range(3)])
    parent = linear_combination(experts, MIX)
    size = num_components(basis.layout)
    steps = draw_steps(jax.random.key(1), size, w_max=0.3)
    moved = child_step(parent.coefficients, steps, basis.layout)
    new = moved if replaced else parent.coefficients + moved
    child = parent.replace(coefficients=new)
    delta, start = mixed(problem, MIX), 0
    for slot in basis.layout:
        count = min(slot.rows, slot.columns)
        w = np.zeros(min(problem.base[slot.name].shape))
        used = np.asarray(steps[start : start + count], np.float64)
        w[: used.size] = used
        u, s, vt = np.linalg.svd(delta[slot.name], full_matrices=False)
        mutation = (u * (w * s)) @ vt
        delta[slot.name] = mutation + (0 if replaced else delta[slot.name])
        start += count
    assert start == size
    assert_weights(materialise(problem.base, basis, child), problem, delta)


@pytest.mark.parametrize("mutation", ["svd_child", "svd_scale"])
def test_children_in_core_form_do_not_depend_on_their_batch(make, mutation):
    basis = core_basis(make.problem("mixed").basis)
    state = (*make.run(basis), basis)
    settings = QDSettings(mutation=mutation)
    key = jax.random.key(0)
    together = propose(*state, key, list(range(1, 7)), settings=settings)
    for i in range(6):
        alone = propose(*state, key, [i + 1], settings=settings)
        np.testing.assert_array_equal(
            alone.genomes.coefficients[0], together.genomes.coefficients[i]
        )
    with pytest.raises(ValueError, match="core form"):
        diagonal = make.problem("mixed").basis
        propose(*make.run(diagonal), diagonal, key, [1], settings=settings)


def test_child_svd_child_of_a_proposal(make):
    """propose() itself: crossed, then moved along the child's own directions."""
    problem = make.problem("lora")
    basis = core_basis(problem.basis)
    archives, bank = make.run(basis, num_children=0)
    settings = QDSettings(mutation="svd_child", w_max=0.2)
    key = jax.random.key(5)
    got = propose(archives, bank, basis, key, [4], settings=settings)
    keys = generation_keys(key, 4)
    w1, w2 = np.asarray(draw_weights(keys.crossover, mean=1.0, std=0.03), np.float64)
    shares = np.zeros(3)
    for parent, weight in zip(got.parents[0], (w1, w2), strict=True):
        shares[parent] += weight / (w1 + w2)
    delta, start = mixed(problem, shares), 0
    steps = draw_steps(keys.mutation, num_components(basis.layout), w_max=0.2)
    for slot in basis.layout:
        count = min(slot.rows, slot.columns)
        u, s, vt = np.linalg.svd(delta[slot.name], full_matrices=False)
        w = np.zeros_like(s)
        used = np.asarray(steps[start : start + count])
        w[: used.size] = used[: s.size]
        delta[slot.name] = delta[slot.name] + (u * (w * s)) @ vt
        start += count
    assert_weights(materialise(problem.base, basis, got.genomes[0]), problem, delta)


SOURCE = NoiseSource(seed=3, std=0.01)


def generation_noise(source, generation, name_index, shape):
    """The noise of one generation alone."""
    share = np.eye(1, 256, generation - 1, dtype=np.float32)[0]
    return summed_noise(source, Genome(None, None, share), name_index, shape)


def dense_noise(problem, generation):
    """Noise of all parameters by its definition, std times a draw, in float64."""
    domain = jax.random.fold_in(jax.random.key(SOURCE.seed), np.uint32(2**32 - 1))
    keys = {
        name: jax.random.fold_in(jax.random.fold_in(domain, i), generation)
        for i, name in enumerate(sorted(problem.base))
    }
    return {
        name: SOURCE.std
        * np.asarray(jax.random.normal(key, problem.base[name].shape), np.float64)
        for name, key in keys.items()
    }


def test_gaussian_children_equal_their_dense_definition(make):
    """Noise added to every parameter, then crossed like any weight, twice over."""
    problem = make.problem("mixed")
    archives, bank = make.run(problem.basis, num_children=0)
    settings = QDSettings(mutation="gaussian")
    key = jax.random.key(3)
    dense = {k: mixed(problem, np.eye(3)[k]) for k in range(3)}
    for t in range(1, 8):
        got = propose(archives, bank, problem.basis, key, [t], settings=settings)
        weights = np.asarray(got.weights[0], np.float64)
        pair = [dense[int(i)] for i in got.parents[0]]
        noise = dense_noise(problem, t)
        dense[2 + t] = {
            name: (weights[0] * pair[0][name] + weights[1] * pair[1][name])
            / weights.sum()
            + noise[name]
            for name in problem.base
        }
        child = jax.device_get(got.genomes)[0]
        weights_of = materialise(problem.base, problem.basis, child, SOURCE)
        assert_weights(weights_of, problem, dense[2 + t])
        scores = [0.1 * t, 1 - 0.1 * t, 0.5 + 0.05 * t]
        archives, _ = archives.offer(bank.next_id, scores)
        bank = bank.add_child(
            child, scores, parents=got.parents[0], weights=weights, active=0
        )
    late = bank.genome(bank.next_id - 1).noise
    assert np.count_nonzero(late) > 1  # ancestors' noise is inherited


def test_noise_is_normal_and_differs_by_generation_parameter_and_seed():
    draws = np.asarray(generation_noise(SOURCE, 1, 0, (200, 100)))
    assert draws.dtype == np.float32
    assert draws.std() == pytest.approx(0.01, rel=0.02)
    assert abs(draws.mean()) < 3 * 0.01 / np.sqrt(draws.size)
    others = [
        generation_noise(SOURCE, 2, 0, (200, 100)),
        generation_noise(SOURCE, 1, 1, (200, 100)),
        generation_noise(NoiseSource(4, 0.01), 1, 0, (200, 100)),
    ]
    for other in others:
        assert abs(np.corrcoef(draws.ravel(), np.ravel(other))[0, 1]) < 0.03


def test_noise_without_its_source_is_refused_and_zero_noise_is_none(make):
    problem = make.problem("lora")
    genome = expert_genome(problem.basis, 0)
    zero = genome.replace(noise=np.zeros(256, np.float32))
    some = genome.replace(noise=np.eye(1, 256, 3, dtype=np.float32)[0])
    plain = materialise(problem.base, problem.basis, genome)
    for name, array in materialise(problem.base, problem.basis, zero).items():
        np.testing.assert_array_equal(array, plain[name])
    with pytest.raises(ValueError, match="noise: expected its source"):
        materialise(problem.base, problem.basis, some)


def test_a_bank_with_noise_is_the_same_however_it_came_about(make):
    """Read and gone on with equals grown, though lengths of noise differ in memory."""
    basis = make.problem("lora").basis
    archives, bank = make.run(basis, num_children=0)
    settings = QDSettings(mutation="gaussian")

    def grow(bank, ts):
        for t in ts:
            got = propose(
                archives, bank, basis, jax.random.key(0), [t], settings=settings
            )
            child = jax.device_get(got.genomes)[0]
            bank = bank.add_child(
                child, [0.1, 0.2, 0.3], parents=[0, 1], weights=[1, 1], active=0
            )
        return bank

    grown = grow(bank, range(1, 5))
    read = grow(Bank.from_numpy(grow(bank, range(1, 3)).to_numpy()), range(3, 5))
    for name, array in grown.to_numpy().items():
        np.testing.assert_array_equal(array, read.to_numpy()[name])
    assert grown.to_numpy()["noise"].shape == (7, 256)
    assert [noise_length(t) for t in (1, 256, 257)] == [256, 256, 512]


def tilted(x1, x2, key, *, basis):
    """A crossover of one's own: a random share of each coefficient."""
    share = jax.random.uniform(key, x1.coefficients.shape)
    mixed = x1.coefficients + share * (x2.coefficients - x1.coefficients)
    return x1.replace(coefficients=mixed, scales=(x1.scales + x2.scales) / 2)


def doubled(genome, key, *, active, basis):
    """A mutation of one's own: the active expert's coefficients, twice."""
    mine = basis.experts_of == active
    return genome.replace(
        coefficients=jnp.where(mine, 2 * genome.coefficients, genome.coefficients)
    )


def test_own_operators_breed_children(make, monkeypatch):
    import sys
    import types

    module = types.ModuleType("own_operators")
    module.tilted, module.doubled = tilted, doubled
    monkeypatch.setitem(sys.modules, "own_operators", module)
    basis = make.problem("mixed").basis
    archives, bank = make.run(basis)
    settings = QDSettings(
        crossover="own_operators:tilted", mutation="own_operators:doubled"
    )
    key = jax.random.key(2)
    got = propose(archives, bank, basis, key, [1, 2, 3], settings=settings)
    assert np.isnan(got.weights).all()
    for i, t in enumerate((1, 2, 3)):
        x1, x2 = (bank.genome(int(p)) for p in got.parents[i])
        crossed = tilted(x1, x2, generation_keys(key, t).crossover, basis=basis)
        want = doubled(crossed, None, active=int(got.active[i]), basis=basis)
        np.testing.assert_allclose(
            got.genomes.coefficients[i], want.coefficients, rtol=1e-5, atol=1e-6
        )
