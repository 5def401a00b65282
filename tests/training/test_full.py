"""Full fine-tuning against PyTorch, step by step; masters and their rounding."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.training import full, step
from cycleqd_jax.training.batches import Batch
from cycleqd_jax.training.settings import OptimiserSettings

OPTIMISER = OptimiserSettings(
    learning_rate=0.01,
    warmup_steps=0,
    steps=1000,
    final_fraction=1.0,
    weight_decay=0.1,
    max_grad_norm=0.5,
)


@pytest.fixture(scope="module")
def batches():
    """Two batches, one for each of two updates."""
    rng = np.random.default_rng(0)
    positions = np.array([[3, 4, 5], [5, 6, 0]], np.int32)
    mask = np.array([[1, 1, 1], [1, 1, 0]], np.float32)
    found = []
    for _ in range(2):
        tokens = rng.integers(0, 64, (2, 9), np.int32)
        targets = np.take_along_axis(tokens, positions + 1, axis=1)
        found.append(Batch(tokens, positions, targets, mask))
    return found


def torch_loss(model, batch):
    logits = model(torch.tensor(batch.tokens, dtype=torch.long)).logits
    index = torch.tensor(batch.positions, dtype=torch.long)
    picked = torch.take_along_dim(logits, index[..., None], dim=1)
    losses = torch.nn.functional.cross_entropy(
        picked.flatten(0, 1),
        torch.tensor(batch.targets, dtype=torch.long).flatten(),
        reduction="none",
    )
    mask = torch.tensor(batch.mask).flatten()
    return (losses * mask).sum() / mask.sum()


def test_two_steps_equal_torch_adamw_with_clipping(torch_model, twin, batches):
    program, weights = twin
    optimiser = step.make_optimiser(OPTIMISER)
    state = step.init_state(full.init_masters(weights), optimiser)

    model = copy.deepcopy(torch_model)
    named = dict(model.named_parameters())
    matrices = [p for p in named.values() if p.ndim > 1]
    scales = [p for p in named.values() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": scales, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.01, eps=1e-8)
    for batch in batches:
        state, metrics = step.train_step(
            state,
            {},
            batch,
            program=program,
            method=full.Full("float32"),
            optimiser=optimiser,
        )
        adamw.zero_grad()
        loss = torch_loss(model, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(named.values(), 0.5)
        adamw.step()
        assert norm > 0.5  # clipping had something to do
        assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-5)
        assert float(metrics["grad_norm"]) == pytest.approx(norm.item(), rel=1e-5)
    got = full.to_numpy(state.params, "float32")
    assert got.keys() == named.keys()
    for name, value in got.items():
        want = named[name].detach().numpy()
        assert np.abs(want - weights[name]).max() > 1e-3  # it was trained
        np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_base_outlives_the_donated_masters(twin, batches):
    program, weights = twin
    before = {name: w.copy() for name, w in weights.items()}
    optimiser = step.make_optimiser(OPTIMISER)
    masters = full.init_masters(weights)
    state = step.init_state(masters, optimiser)
    step.train_step(
        state,
        {},
        batches[0],
        program=program,
        method=full.Full("float32"),
        optimiser=optimiser,
    )
    for name, w in before.items():
        np.testing.assert_array_equal(weights[name], w)
        assert masters[name].is_deleted()  # its memory went to the new state


def test_updates_too_small_for_bfloat16_add_up_in_the_masters(twin, batches):
    program, weights = twin
    half = LlamaProgram(program.config, jnp.bfloat16)
    optimiser = step.make_optimiser(
        OPTIMISER.model_copy(update={"learning_rate": 1e-5, "weight_decay": 0.0})
    )
    # Begin where bfloat16 is exact, so that every change is the training's.
    start = {n: np.asarray(jnp.bfloat16(w), np.float32) for n, w in weights.items()}
    state = step.init_state(full.init_masters(start), optimiser)
    for _ in range(5):
        state, metrics = step.train_step(
            state,
            {},
            batches[0],
            program=half,
            method=full.Full("bfloat16"),
            optimiser=optimiser,
        )
    name = "model.layers.0.mlp.down_proj.weight"
    moved = np.abs(np.asarray(state.params[name]) - start[name])
    assert state.params[name].dtype == jnp.float32
    assert all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves(state))
    assert 2e-5 < np.median(moved) < 1e-4  # five steps of 1e-5 each
    rounded = full.to_numpy(state.params, "bfloat16")[name].astype(np.float32)
    assert np.mean(rounded == start[name]) > 0.9
    assert np.isfinite(float(metrics["loss"]))


def test_bfloat16_computes_in_bfloat16(twin, batches):
    program, weights = twin
    half = LlamaProgram(program.config, jnp.bfloat16)
    masters = full.init_masters(weights)
    bound, deltas = full.Full("bfloat16").model(masters, {})
    hidden = jax.jit(half.hidden)(bound, batches[0].tokens, deltas)
    assert hidden.dtype == jnp.bfloat16
    want = jax.jit(program.hidden)(masters, batches[0].tokens)
    assert 0 < np.abs(np.asarray(hidden, np.float32) - want).max() < 0.3
