"""The validation curve: its numbers, and that it survives an interruption."""

import jax
import numpy as np
import pytest
from dense_loss import dense_loss

from cycleqd_jax.training import full
from cycleqd_jax.training.checkpoints import TrainCheckpoints
from cycleqd_jax.training.curve import ValidationCurve, _sums
from cycleqd_jax.training.sft import train
from cycleqd_jax.training.step import StepMetrics


def assert_same_params(a, b):
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_losses_are_those_of_the_dialogues_one_by_one(tiny, uneven):
    program, weights = tiny
    by_task = {"a": uneven[:5], "b": uneven[5:]}
    curve = ValidationCurve(by_task, rows=3)
    before = _sums._cache_size()
    losses, shares = curve.losses(
        full.init_masters(weights), {}, program=program, method=full.Full("float32")
    )
    assert _sums._cache_size() == before + 1  # one shape for all tasks and batches
    for task, found in by_task.items():
        sums = np.sum([dense_loss(program, weights, e) for e in found], axis=0)
        count = sum(len(e.learnt) for e in found)
        assert losses[task] == pytest.approx(sums[0] / count, rel=1e-5)
        assert shares[task] == sums[1] / count


def test_it_changes_no_bit_of_the_training_and_is_computed_when_due(sft_job):
    plain = train(sft_job(steps=20))
    result = train(sft_job(steps=20, validate_every=8))
    assert_same_params(plain, result)
    due = [row.step for row in result.history if row.validation_loss is not None]
    assert due == [8, 16, 20]
    assert [row[:3] for row in result.history] == [row[:3] for row in plain.history]
    assert all(row == StepMetrics(*row[:3]) for row in plain.history)
    curve = [row.validation_loss["held out"] for row in result.history[7::8]]
    assert curve[1] < curve[0]


class Killed(Exception):
    pass


@pytest.mark.parametrize("last", [3, 9, 16])
def test_stopped_anywhere_the_curve_is_the_same(sft_job, tmp_path, last):
    def run(killed_after=99):
        def stop(row):
            if row.step == killed_after:
                raise Killed

        job = sft_job(steps=20, validate_every=8)
        with TrainCheckpoints(tmp_path, keep=2, validation=["held out"]) as kept:
            return train(job, checkpoints=kept, on_step=stop)

    with pytest.raises(Killed):
        run(last)
    got, want = run(), train(sft_job(steps=20, validate_every=8))
    assert got.history == want.history
    assert_same_params(got, want)
