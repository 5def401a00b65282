"""The ledger of a run: tokens by phase, whole after any interruption."""

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.base import Cost, total_cost
from cycleqd_jax.inference.stats import EngineStats
from cycleqd_jax.runs.costs import (
    ORDER,
    PhaseCost,
    part_costs,
    phase_of,
    run_cost,
    write_costs,
)
from cycleqd_jax.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    with RunFolder(tmp_path, resume=True) as folder:
        write_costs(folder, "experts-optimise", [("evaluate", Cost(100, 0, 1.0))])
        calls = [("gradient", Cost(7, 7, 0.5)), ("gradient", Cost(1, 2, 0.5))]
        write_costs(folder, "batch-000001", [*calls, ("evaluate", Cost(30, 0, 1.0))])
        write_costs(folder, "batch-000003", [("evaluate", Cost(20, 0, 1.0))])
        write_costs(folder, "candidates-validate", [("evaluate", Cost(40, 0, 1.0))])
        write_costs(folder, "baselines-test", [("evaluate", Cost(50, 0, 1.0))])
        write_costs(folder, "final-test", [("evaluate", Cost(5, 0, 1.0))])
        for phase, seconds in (("batch", 2.0), ("batch", 3.0), ("test", 4.0)):
            folder.log_time(phase, seconds)
        yield folder


def test_a_run_costs_the_sum_of_its_parts_by_phase(folder, tmp_path):
    assert run_cost(tmp_path) == {
        "experts": PhaseCost(100, 0, 0.0),
        "search": PhaseCost(58, 9, 5.0),
        "champions": PhaseCost(40, 0, 0.0),
        "test": PhaseCost(55, 0, 4.0),
    }
    assert run_cost(tmp_path)["search"].tokens == 58 + 2 * 9
    parts = part_costs(tmp_path)
    assert parts["batch-000001"] == PhaseCost(38, 9) and len(parts) == 6
    assert run_cost(tmp_path / "nothing") == {}


def test_a_dropped_batch_costs_nothing(folder, tmp_path):
    """As if it had never been evaluated: resumed, its part is written again."""
    folder.drop_batches_from(3)
    assert run_cost(tmp_path)["search"].tokens_forward == 38


def test_a_changed_byte_is_noticed(folder, tmp_path):
    path = folder.part("costs", "final-test")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="is damaged"):
        run_cost(tmp_path)


def test_every_part_has_a_phase():
    names = {
        "trained-experts-optimise": "experts",
        "experts-smooth": "experts",
        "batch-000017": "search",
        "candidates-validate": "champions",
        "final-optimise": "champions",
        "final-test": "test",
        "baselines-test": "test",
        "merges-validate": "baselines",
        "anything": "other",
    }
    assert {name: phase_of(name) for name in names} == names
    assert set(names.values()) <= set(ORDER)


def test_costs_add_up():
    one = Cost(3, 1, 0.5, EngineStats(prefill_tokens=2, idle_seconds=0.25))
    both = total_cost([one, one])
    assert both[:3] == (6, 2, 1.0)
    assert both.engine == EngineStats(prefill_tokens=4, idle_seconds=0.5)
    assert total_cost([one, Cost(1, 0, 0.0)]).engine is None
    assert total_cost([]) == Cost(0, 0, 0, None)
