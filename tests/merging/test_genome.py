import numpy as np
import pytest

from cycleqd_jax.merging import genome as genomes
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.genome import Genome


@pytest.fixture
def basis(make):
    base = make.base()
    return compute_basis(base, make.experts("mixed", base))


def test_expert_genomes_share_no_coefficient_and_sum_to_all(basis):
    experts = [genomes.expert_genome(basis, k) for k in range(3)]
    total = sum(np.asarray(g.coefficients) for g in experts)
    np.testing.assert_array_equal(total, basis.singular_values)
    for k, genome in enumerate(experts):
        assert genome.scales.tolist() == np.eye(3)[k].tolist()
        owners = np.asarray(basis.experts_of)[np.asarray(genome.coefficients) != 0]
        assert set(owners) <= {k}
    with pytest.raises(ValueError, match="expected 0 to 2, got 3"):
        genomes.expert_genome(basis, 3)


def test_hash_sees_every_bit(basis):
    genome = genomes.uniform(basis)
    changed = np.array(genome.coefficients)
    changed[-1] = np.nextafter(changed[-1], np.float32(9))
    assert genomes.genome_hash(genome) == genomes.genome_hash(genomes.uniform(basis))
    other = Genome(changed, genome.scales)
    assert genomes.genome_hash(genome) != genomes.genome_hash(other)


def test_linear_combination_checks_the_number_of_weights(basis):
    batch = genomes.stack_genomes([genomes.uniform(basis)] * 2)
    with pytest.raises(ValueError, match=r"expected shape \[2\].*got \[3\]"):
        genomes.linear_combination(batch, [1, 2, 3])
