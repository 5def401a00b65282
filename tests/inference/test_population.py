"""Individuals in the tables of a population."""

import types

import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.inference.population import empty_population, with_individual
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.mode import choose_mode
from cycleqd_jax.merging.settings import BasisSettings


@pytest.fixture(scope="module")
def basis(weights):
    """Of a LoRA of all matrices and a full fine-tune."""
    rng = np.random.default_rng(2)
    draw = lambda *shape: 0.2 * rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    factors = {
        name: types.SimpleNamespace(
            b=draw(w.shape[0], 2), a=draw(2, w.shape[1]), scale=1
        )
        for name, w in weights.items()
        if w.ndim == 2
    }
    whole = {name: np.asarray(w) + draw(*w.shape) for name, w in weights.items()}
    experts = [
        types.SimpleNamespace(factors=factors),
        types.SimpleNamespace(weights=whole),
    ]
    return compute_basis(weights, experts, BasisSettings(rank=4))


def genomes(basis, count):
    rng = np.random.default_rng(0)
    return [
        Genome(
            rng.standard_normal(basis.genome_size).astype(np.float32),
            rng.standard_normal(basis.num_experts).astype(np.float32),
        )
        for _ in range(count)
    ]


def test_the_directions_of_the_basis_are_not_copied(make, program, basis):
    population = empty_population(basis, 2)
    for row, genome in enumerate(genomes(basis, 2)):
        population = with_individual(population, basis, genome, row)
    placed = make.engine(program).place(population)
    assert placed.u.keys() == basis.u.keys()
    for name, direction in basis.u.items():
        assert placed.u[name] is direction
        assert placed.v[name] is basis.v[name]


def logits(program, weights, tokens, deltas=None):
    return program.logits(weights, program.hidden(weights, tokens, deltas), deltas)


def test_each_row_is_its_individual_and_the_others_stay(program, weights, basis):
    """Logits of two rows against those of their materialised weights, in float32."""
    first, second, third = genomes(basis, 3)
    population = with_individual(empty_population(basis, 2), basis, first, 0)
    population = with_individual(population, basis, second, 1)
    changed = with_individual(population, basis, third, 1)
    tokens = np.random.default_rng(3).integers(1, 160, (2, 12)).astype(np.int32)
    for table, rows in ((population, (first, second)), (changed, (first, third))):
        got = logits(program, weights, tokens, table.deltas(np.arange(2)))
        for row, genome in enumerate(rows):
            own = materialise(weights, basis, genome)
            want = logits(program, own, tokens[row : row + 1])[0]
            scale = np.abs(want).max()
            np.testing.assert_allclose(got[row], want, atol=1e-4 * scale)


def test_dense_individuals_are_materialised(weights, basis):
    """Individuals in core form, with residuals or with noise have no factored form."""
    rest = basis.replace(residuals={"some": np.zeros((2, 3, 4), np.float32)})
    for other, noise, reason in [
        (core_basis(basis), False, "core form"),
        (rest, False, "residuals"),
        (basis, True, "noise"),
    ]:
        choice = choose_mode("auto", weights, other, noise=noise)
        assert choice.mode == "materialised" and reason in choice.reason
        with pytest.raises(BadInputError, match=f"engine.mode is factored.*{reason}"):
            choose_mode("factored", weights, other, noise=noise)
