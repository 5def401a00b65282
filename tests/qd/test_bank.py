import numpy as np
import pytest

from cycleqd_jax.merging.genome import genome_hash
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.qd.bank import Bank


@pytest.fixture
def bank(make):
    return make.run(make.problem("mixed").basis, num_children=6)[1]


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype == array.dtype, name


def test_round_trip(bank):
    pruned = bank.prune([4, 7])
    for one in (bank, pruned, Bank.empty(3)):
        again = Bank.from_numpy(one.to_numpy())
        assert_same(again.to_numpy(), one.to_numpy())
        assert again.next_id == one.next_id
    assert bank.scores.dtype == np.float64  # 1/3 survives


def test_more_experts_than_tasks_come_before_the_children(make):
    genome, scores = make.genome(make.problem("lora").basis), [0.5, 0.25]
    bank = Bank.empty(2, 3)
    for _ in range(3):
        with pytest.raises(ValueError, match="expected 3 experts"):
            bank.add_child(genome, scores)
        bank = bank.add_expert(genome, scores)
    with pytest.raises(ValueError, match="at most 3, but there are 3"):
        bank.add_expert(genome, scores)
    bank = bank.add_child(genome, scores).add_child(genome, scores)
    again = Bank.from_numpy(bank.prune([4]).to_numpy())
    assert (again.num_tasks, again.num_experts) == (2, 3)
    assert sorted(again.genomes) == [0, 1, 2, 4]
    assert sorted(again.prune([]).genomes) == [0, 1, 2]
    assert Bank.from_numpy(Bank.empty(2, 3).to_numpy()).num_experts == 3


def test_scores_keep_their_float64_value(make):
    genome = make.genome(make.problem("lora").basis)
    bank = Bank.empty(3).add_expert(genome, [1 / 3, 0.1, 0.7])
    assert Bank.from_numpy(bank.to_numpy()).scores[0].tolist() == [1 / 3, 0.1, 0.7]


def test_appending_leaves_the_old_bank_alone(make, bank):
    before = bank.to_numpy()
    genome = make.genome(make.problem("mixed").basis, 99)
    bigger = bank.add_child(
        genome, [0.1, 0.2, 0.3], parents=[0, 8], weights=[1.0, 1.1], active=2
    )
    assert bank.next_id == 9 and bigger.next_id == 10
    assert_same(bank.to_numpy(), before)
    assert bigger.genomes[3] is bank.genomes[3]  # shared, not copied
    assert genome_hash(bigger.genome(9)) == genome_hash(genome)
    genome.coefficients[:] = 0  # the bank holds its own copy
    assert bigger.genome(9).coefficients.any()


def test_recipes_are_kept_beside_genomes(bank):
    """To the last digit; files of banks without recipes are as ever."""
    assert "recipes" not in bank.to_numpy()
    ties = Recipe("ties", factor=0.1 + 0.2, density=1 / 3)
    dare = Recipe("dare", factor=1e-17, density=0.5, seed=2**32 - 1)
    for recipe in (ties, dare):
        bank = bank.add_child(recipe, [0.1, 0.2, 0.3])
    again = Bank.from_numpy(bank.to_numpy())
    assert_same(again.to_numpy(), bank.to_numpy())
    assert (again.individual(9), again.individual(10)) == (ties, dare)
    assert genome_hash(again.individual(8)) == genome_hash(bank.genome(8))
    pruned = Bank.from_numpy(bank.prune([4, 10]).to_numpy())
    assert sorted(pruned.genomes) == [0, 1, 2, 4, 10]
    with pytest.raises(KeyError, match="got 10; it is a recipe"):
        pruned.gather([0, 10])


def test_pruning_drops_genomes_but_no_ancestry(bank):
    pruned = bank.prune([5])
    assert sorted(pruned.genomes) == [0, 1, 2, 5]
    for name in ("scores", "parents", "weights", "active"):
        np.testing.assert_array_equal(getattr(pruned, name), getattr(bank, name))
    with pytest.raises(KeyError, match="dropped or never added"):
        pruned.gather([0, 4])


def test_gather_repeats_and_orders(bank):
    batch = bank.gather([4, 0, 4])
    assert batch.coefficients.shape[0] == 3
    for row, individual in enumerate([4, 0, 4]):
        np.testing.assert_array_equal(
            batch.coefficients[row], bank.genome(individual).coefficients
        )


def test_ancestry_is_kept_by_id(make):
    genome = make.genome(make.problem("lora").basis)
    bank, scores = Bank.empty(3), [0.1, 0.2, 0.3]
    for _ in range(3):
        bank = bank.add_expert(genome, scores)
    for parents in ([0, 1], [3, 1], [4, 3]):
        bank = bank.add_child(
            genome, scores, parents=parents, weights=[0.5, 1.5], active=1
        )
    assert bank.parents.tolist() == [[-1, -1]] * 3 + [[0, 1], [3, 1], [4, 3]]
    assert bank.weights.tolist() == [[0, 0]] * 3 + [[0.5, 1.5]] * 3
    assert bank.active.tolist() == [-1] * 3 + [1] * 3


def test_wrong_additions_are_refused(make, bank):
    genome = make.genome(make.problem("mixed").basis)
    with pytest.raises(ValueError, match="at most 3, one per task"):
        bank.add_expert(genome, [0.1, 0.2, 0.3])
    child = {"weights": [1, 1], "active": 0}
    with pytest.raises(ValueError, match="two ids below 9"):
        bank.add_child(genome, [0.1, 0.2, 0.3], parents=[0, 9], **child)
    with pytest.raises(ValueError, match="expected 3 numbers"):
        bank.add_child(genome, [0.1, 0.2], parents=[0, 1], **child)
    with pytest.raises(ValueError, match="expected 3 experts"):
        Bank.empty(3).add_child(genome, [0.1, 0.2, 0.3], parents=[0, 1], **child)


def test_smooth_scores_are_kept_and_cost_nothing_where_there_are_none(make, bank):
    assert "smooth" not in bank.to_numpy() and np.isnan(bank.smooth).all()
    genome = make.genome(make.problem("mixed").basis, 9)
    one = Bank.empty(3).add_expert(genome, [0.1] * 3, [-0.25, np.nan, -1 / 3])
    again = Bank.from_numpy(one.to_numpy())
    np.testing.assert_array_equal(again.smooth, [[-0.25, np.nan, -1 / 3]])
    assert_same(again.to_numpy(), one.to_numpy())
    assert Bank.from_numpy(bank.to_numpy()).smooth.shape == bank.scores.shape


def test_retention_is_kept_and_costs_nothing_where_there_is_none(make, bank):
    assert "retention" not in bank.to_numpy() and np.isnan(bank.retention).all()
    assert Bank.from_numpy(bank.to_numpy()).retention.shape == (bank.next_id,)
    genome = make.genome(make.problem("mixed").basis, 9)
    one = Bank.empty(2).add_expert(genome, [0.1] * 2, retention=1 / 3)
    one = one.add_expert(genome, [0.1] * 2, retention=1.0)
    one = one.add_child(genome, [0.5] * 2, complete=False)
    again = Bank.from_numpy(one.to_numpy())
    np.testing.assert_array_equal(again.retention, [1 / 3, 1.0, np.nan])
    assert_same(again.to_numpy(), one.to_numpy())
    with pytest.raises(ValueError, match=r"retention: expected a number in \[0, 1\]"):
        one.add_child(genome, [0.5] * 2, retention=1.5)
