import jax
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.archives import empty_archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.runs.memory_plan import check_memory_plan, memory_plan, size_text


def plan_of(**changes):
    settings = {
        "num_tasks": 3,
        "bins": 15,
        "genome_size": 1000,
        "num_generations": 24,
        "children_per_batch": 4,
    }
    return memory_plan(**{**settings, **changes})


@pytest.mark.parametrize("num_tasks", [2, 3, 4])
def test_grid_bytes_are_those_of_the_real_archives(num_tasks):
    archives = empty_archives([(0.0, 1.0)] * num_tasks, 6)
    real = sum(leaf.nbytes for leaf in jax.tree.leaves(archives))
    assert plan_of(num_tasks=num_tasks, bins=6).grid_bytes == real


def test_bank_bytes_are_those_of_the_real_bank():
    def genome():
        return Genome(np.zeros(10, np.float32), np.zeros(2, np.float32))

    bank = Bank.empty(2).add_expert(genome(), [0.5, 0.5])
    bank = bank.add_expert(genome(), [0.5, 0.5])
    for _ in range(3):
        bank = bank.add_child(
            genome(), [1.0, 0.0], parents=[0, 1], weights=[1.0, 1.0], active=0
        )
    arrays = bank.to_numpy()
    del arrays["genome_ids"]
    settings = {"num_tasks": 2, "genome_size": 10, "num_generations": 3}
    plan = plan_of(**settings)
    assert plan.bank_bytes == sum(array.nbytes for array in arrays.values())
    # Gaussian mutation: one number per generation more.
    more = plan_of(**settings, noise_size=256)
    assert more.genome_bytes == plan.genome_bytes + 4 * 256


def test_numbers_of_the_design():
    assert plan_of(num_tasks=5).num_cells == 253_125
    big = plan_of(num_generations=1200, genome_size=8_750_000 // 4)
    assert big.num_cells == 675 and big.num_genomes == 675 + 3 + 4
    assert big.bank_bytes == pytest.approx(5.9e9, rel=0.02)
    assert plan_of().num_genomes == 27  # never more than individuals


def test_a_plan_that_does_not_fit_is_refused_with_its_numbers():
    plan = plan_of()
    check_memory_plan(plan, plan.total_bytes)
    with pytest.raises(BadInputError, match=r"675 cells.*27 genomes.*fewer bins"):
        check_memory_plan(plan, plan.total_bytes - 1)
    with pytest.raises(BadInputError, match="253125 cells in all archives"):
        check_memory_plan(plan_of(num_tasks=5), 10**12, max_cells=200_000)


def test_absurd_settings_are_refused_with_their_numbers():
    absurd = plan_of(num_tasks=5, bins=1000)
    with pytest.raises(BadInputError, match=r"5000000000000 cells.*fewer bins"):
        check_memory_plan(absurd, 10**15)
    # Five tasks at the paper's 15 bins do fit: few cells are ever filled.
    paper = plan_of(num_tasks=5, num_generations=1200, genome_size=14_581_760 // 4)
    check_memory_plan(paper, 40 * 10**9)
    assert paper.num_genomes == 1205
    with pytest.raises(BadInputError, match=r"253125 cells and the bank 17\.6 GB"):
        check_memory_plan(paper, 8 * 10**9)


def test_sizes_for_readers():
    texts = [size_text(x) for x in (0, 999, 1000, 8.75e6, 999_600, 5.9e9, 2.5e15)]
    assert texts == ["0 B", "999 B", "1 kB", "8.75 MB", "1 MB", "5.9 GB", "2,500 TB"]


def test_advice_where_cells_cannot_fill():
    assert plan_of().advice is None
    assert "50625 cells for 29 individuals" in plan_of(num_tasks=5).advice
