import jax
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.qd.archives import empty_archives
from cycleqd_jax.qd.memory_plan import check_memory_plan, memory_plan


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


def test_advice_where_cells_cannot_fill():
    assert plan_of().advice is None
    assert "50625 cells for 29 individuals" in plan_of(num_tasks=5).advice
