"""The training loop: that it learns, that it repeats, that it goes on."""

import jax
import numpy as np
import pytest

from cycleqd_jax.errors import RunError
from cycleqd_jax.training import full, lora
from cycleqd_jax.training.batches import Batches
from cycleqd_jax.training.checkpoints import TrainCheckpoints
from cycleqd_jax.training.settings import LoraSettings, OptimiserSettings
from cycleqd_jax.training.sft import Training, train

SETTINGS = LoraSettings(rank=4, alpha=8.0, targets=("q_proj", "up_proj"))
OPTIMISER = OptimiserSettings(
    learning_rate=0.03,
    warmup_steps=3,
    steps=40,
    batch_size=4,
    max_length=16,
    checkpoint_every=7,
)


def training(tiny, examples, method="lora", **changes):
    program, weights = tiny
    optimiser = OPTIMISER.model_copy(update=changes)
    is_lora = method == "lora"
    return Training(
        program=program,
        weights=weights if is_lora else {},
        method=lora.Lora(SETTINGS.scale) if is_lora else full.Full("float32"),
        init=lambda: (
            lora.init_factors(program, SETTINGS, jax.random.key(3))
            if is_lora
            else full.init_masters(weights)
        ),
        batches=Batches(
            [examples[:3], examples[3:]],
            [1.0, 2.0],
            batch_size=optimiser.batch_size,
            steps=optimiser.steps,
            seed=5,
        ),
        optimiser=optimiser,
    )


def assert_same_bits(a, b):
    assert a.history == b.history
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_it_learns_and_repeats_bit_for_bit(tiny, examples):
    first, second = (train(training(tiny, examples)) for _ in range(2))
    assert first.history[0].token_accuracy == 0.0
    assert first.history[-1].token_accuracy == 1.0
    assert first.history[-1].loss < first.history[0].loss - 2.0
    assert_same_bits(first, second)


def test_a_full_fine_tune_learns_too(tiny, examples):
    expert = train(training(tiny, examples, "full", learning_rate=0.01))
    assert expert.history[-1].token_accuracy == 1.0


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", ["lora", "full"])
def test_stopped_anywhere_it_ends_with_the_same_bits(tiny, examples, method, tmp_path):
    want = train(training(tiny, examples, method, steps=20))
    job = training(tiny, examples, method, steps=20)

    def run(last=99):
        """Trains on, to be killed after a step; returns the steps it made."""
        seen = []

        def report(row):
            seen.append(row.step)
            if row.step == last:
                raise Killed

        with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
            return seen, train(job, checkpoints=checkpoints, on_step=report)

    for last in (3, 16):  # before the first checkpoint, and after the second
        with pytest.raises(Killed):
            run(last)
    seen, got = run()
    assert seen == list(range(15, 21))
    assert_same_bits(got, want)


def test_a_loss_that_is_no_number_stops_the_training(tiny, examples):
    program, weights = tiny
    broken = weights | {"model.norm.weight": np.full(32, np.nan, np.float32)}
    with pytest.raises(RunError, match="learning_rate"):
        train(training((program, broken), examples))
