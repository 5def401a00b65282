"""The cost of a training: tokens counted by hand, seconds over several processes."""

import dataclasses

import pytest

from cycleqd_jax.evaluation.base import Cost
from cycleqd_jax.training.batches import Batches
from cycleqd_jax.training.clock import Clock
from cycleqd_jax.training.cost import training_cost

NOTHING = Cost(0, 0, 0.0)


@pytest.mark.parametrize("packing", [False, True])
def test_tokens_are_those_of_the_dialogues_without_padding(uneven, packing):
    batches = Batches(
        [uneven[:3], uneven[3:]],
        [1.0, 2.0],
        batch_size=4,
        steps=7,
        seed=2,
        packing=packing,
    )
    # Random tokens are 3 or more, padding is 0.
    counted = sum(int((batches.at(step).tokens > 0).sum()) for step in range(1, 8))
    assert batches.tokens(7) == counted


def test_every_part_is_in_the_totals(sft_job):
    job = sft_job(steps=20, validate_every=8)
    tokens = 20 * 4 * 8  # steps, dialogues, tokens each
    curve = 3 * 2 * 8  # after steps 8, 16 and 20
    cost = training_cost(job, 5.0, Cost(100, 0, 2.0))
    assert cost["tokens_forward"] == tokens + curve + 100
    assert cost["tokens_backward"] == tokens
    assert cost["seconds"] == 7.0
    assert cost["parts"]["validation_curve"]["tokens_forward"] == curve
    again = training_cost(dataclasses.replace(job, recompute=True), 5.0, NOTHING)
    assert again["parts"]["updates"]["tokens_forward"] == 2 * tokens
    plain = training_cost(sft_job(steps=20), 5.0, NOTHING)
    assert plain["tokens_forward"] == plain["tokens_backward"] == tokens


def test_the_clock_goes_on_from_what_was_saved(tmp_path):
    path = tmp_path / "seconds.json"
    path.write_text("1000.0")
    clock = Clock(path)
    assert 1000 < clock.seconds < 1100
    clock.save()
    assert 1000 < Clock(path).seconds
