import jax
import ml_dtypes
import numpy as np
import pytest

from cycleqd_jax.merging import genome as genomes
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.materialise import (
    low_rank_factors,
    materialise,
    split_coefficients,
)

KINDS = pytest.mark.parametrize("kind", ["lora", "full", "mixed"])


def assert_weights(got, base, delta, rtol=1e-5):
    """Equal to base + delta up to `rtol` of the largest weight."""
    assert set(got) == set(base)
    for name, array in base.items():
        want = array.astype(np.float64) + delta[name]
        np.testing.assert_allclose(got[name], want, atol=rtol * np.abs(want).max())
        assert got[name].dtype == array.dtype


@KINDS
@pytest.mark.parametrize("k", range(3))
def test_expert_genome_is_the_expert(make, kind, k):
    base = make.base()
    experts = make.experts(kind, base)
    basis = compute_basis(base, experts)
    got = materialise(base, basis, genomes.expert_genome(basis, k))
    assert_weights(got, base, make.dense_taus(base, experts)[k])


@KINDS
def test_sums_of_task_vectors(make, kind):
    base = make.base()
    experts = make.experts(kind, base)
    basis = compute_basis(base, experts)
    taus = make.dense_taus(base, experts)

    def summed(weights):
        pairs = list(zip(weights, taus, strict=True))
        return {name: sum(w * tau[name] for w, tau in pairs) for name in base}

    got = materialise(base, basis, genomes.uniform(basis))
    assert_weights(got, base, summed([1 / 3] * 3))
    got = materialise(base, basis, genomes.scaled_sum(basis, 0.4))
    assert_weights(got, base, summed([0.4] * 3))
    batch = genomes.stack_genomes([genomes.expert_genome(basis, k) for k in range(3)])
    got = genomes.linear_combination(batch, [0.7, -0.2, 0.4])
    assert_weights(materialise(base, basis, got), base, summed([0.7, -0.2, 0.4]))


@KINDS
def test_any_genome_equals_its_dense_definition(make, kind):
    base = make.base()
    basis = compute_basis(base, make.experts(kind, base))
    rng = np.random.default_rng(5)
    genome = Genome(
        rng.standard_normal(basis.genome_size).astype(np.float32),
        rng.standard_normal(3).astype(np.float32),
    )
    delta = {name: np.zeros(array.shape) for name, array in base.items()}
    for slot in basis.layout:
        c = genome.coefficients[slot.offset : slot.offset + slot.size]
        for i, value in enumerate(c):
            k, j = divmod(i, slot.rank)
            u = np.asarray(basis.u[slot.name], np.float64)[:, slot.columns(k)][:, j]
            v = np.asarray(basis.v[slot.name], np.float64)[:, slot.columns(k)][:, j]
            delta[slot.name] += float(value) * np.outer(u, v)
    for name, deltas in basis.deltas.items():
        for k in range(3):
            delta[name] += float(genome.scales[k]) * np.asarray(deltas, np.float64)[k]
    assert_weights(materialise(base, basis, genome), base, delta)


def test_base_genome_gives_the_base_and_untouched_weights_are_not_copied(make):
    base = make.base()
    basis = compute_basis(base, make.experts("full", base))
    got = materialise(base, basis, genomes.base_genome(basis))
    for name, array in base.items():
        np.testing.assert_array_equal(got[name], array)
    assert got["untouched.weight"] is base["untouched.weight"]


def test_sums_are_rounded_once_to_bfloat16(make):
    base = make.base(dtype=ml_dtypes.bfloat16)
    basis = compute_basis(base, make.experts("lora", base))
    genome = genomes.scaled_sum(basis, 0.01)
    exact = materialise(
        {n: w.astype(np.float32) for n, w in base.items()}, basis, genome
    )
    got = materialise(base, basis, genome)
    for name in basis.u:
        want = np.asarray(exact[name]).astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(np.asarray(got[name]), want)


def test_jit_equals_eager_and_keeps_dtypes(make):
    base = make.base()
    basis = compute_basis(base, make.experts("mixed", base))
    genome = genomes.scaled_sum(basis, 0.7)
    compiled = materialise(base, basis, genome)
    with jax.disable_jit():
        eager = materialise(base, basis, genome)
    for name, array in compiled.items():
        np.testing.assert_allclose(eager[name], array, rtol=1e-6, atol=1e-6)
        assert eager[name].dtype == array.dtype == base[name].dtype


def test_split_coefficients_serve_the_factored_form(make):
    base = make.base()
    basis = compute_basis(base, make.experts("lora", base))
    genome = genomes.scaled_sum(basis, 0.5)
    weights = materialise(base, basis, genome)
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    for name, c in split_coefficients(basis, genome).items():
        u, v = np.asarray(basis.u[name]), np.asarray(basis.v[name])
        got = x @ base[name].T + ((x @ v) * np.asarray(c)) @ u.T
        np.testing.assert_allclose(got, x @ np.asarray(weights[name]).T, atol=1e-5)
    batch = genomes.stack_genomes([genome, genome])
    assert {c.shape[0] for c in split_coefficients(basis, batch).values()} == {2}


@pytest.mark.parametrize("form", [lambda basis: basis, core_basis])
def test_low_rank_factors_are_what_the_genome_adds(make, form):
    base = make.base()
    basis = form(compute_basis(base, make.experts("lora", base)))
    genome = genomes.scaled_sum(basis, 0.5)
    weights = materialise(base, basis, genome)
    factors = low_rank_factors(basis, genome)
    assert factors.keys() == basis.u.keys()
    for name, (b, a) in factors.items():
        assert b.dtype == a.dtype == np.float32 and a.flags.c_contiguous
        np.testing.assert_allclose(base[name] + b @ a, weights[name], atol=1e-5)


def test_wrong_genome_or_base_is_refused(make):
    base = make.base()
    basis = compute_basis(base, make.experts("lora", base))
    with pytest.raises(ValueError, match=r"genome: expected shapes \[21\] and \[3\]"):
        materialise(base, basis, Genome(np.zeros(20), np.zeros(3)))
    with pytest.raises(ValueError, match="another base model"):
        materialise({}, basis, genomes.uniform(basis))


@KINDS
def test_memory_of_another_individual_is_used_again(make, kind):
    base = {name: jax.numpy.asarray(w) for name, w in make.base().items()}
    basis = compute_basis(base, make.experts(kind, make.base()))
    first = materialise(base, basis, genomes.expert_genome(basis, 0))
    fresh = materialise(base, basis, genomes.uniform(basis))
    again = materialise(base, basis, genomes.uniform(basis), into=first)
    for name, weight in fresh.items():
        np.testing.assert_array_equal(again[name], weight)
    matrices = [slot.name for slot in basis.layout]
    assert all(first[name].is_deleted() for name in matrices)
    assert not any(weight.is_deleted() for weight in base.values())
