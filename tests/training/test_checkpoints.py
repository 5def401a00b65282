"""Training checkpoints: bits, and what becomes of damaged ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from cycleqd_jax.errors import RunError
from cycleqd_jax.training import step
from cycleqd_jax.training.checkpoints import Progress, TrainCheckpoints
from cycleqd_jax.training.settings import OptimiserSettings
from cycleqd_jax.training.step import StepMetrics


def progress(last: int) -> Progress:
    rng = np.random.default_rng(last)
    params = {
        "model.layers.0.q_proj.weight": jnp.asarray(rng.standard_normal((40, 30))),
        "model.norm.weight": jnp.asarray(rng.standard_normal(7)),
    }
    optimiser = step.make_optimiser(
        OptimiserSettings(
            learning_rate=0.1,
            warmup_steps=0,
            steps=9,
            final_fraction=1.0,
            weight_decay=0.0,
            max_grad_norm=1.0,
        )
    )
    rows = (StepMetrics(i, float(rng.random()), 0.1 * i) for i in range(1, last + 1))
    return Progress(step.init_state(params, optimiser), tuple(rows))


def is_same(a: Progress, b: Progress) -> bool:
    return a.history == b.history and all(
        np.array_equal(a.state.params[name], value)
        for name, value in b.state.params.items()
    )


def damage(folder, last: int) -> None:
    """Flips one bit in the middle of the largest file of a checkpoint."""
    paths = [p for p in (folder / str(last)).rglob("*") if p.is_file()]
    path = max(paths, key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_saved_comes_back_and_the_oldest_goes(tmp_path):
    like = progress(1).state
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(like) is None
        for last in (2, 4, 6):
            checkpoints.save(progress(last))
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        assert is_same(checkpoints.restore(like), progress(6))
    assert not (tmp_path / "2").exists() and (tmp_path / "4").exists()


def test_damaged_checkpoints_are_passed_over_and_written_again(tmp_path):
    like = progress(1).state
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(progress(2))
        checkpoints.save(progress(4))
    damage(tmp_path, 4)
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        assert is_same(checkpoints.restore(like), progress(2))
        checkpoints.save(progress(4))
        assert is_same(checkpoints.restore(like), progress(4))
    damage(tmp_path, 2)
    damage(tmp_path, 4)
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        with pytest.raises(RunError, match="are damaged"):
            checkpoints.restore(like)
