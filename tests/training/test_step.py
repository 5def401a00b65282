"""One update: parts of a batch, packed rows and recomputed layers change nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cycleqd_jax.training import full, lora, step
from cycleqd_jax.training.batches import Batches
from cycleqd_jax.training.settings import LoraSettings, OptimiserSettings

SETTINGS = LoraSettings(rank=4, alpha=8.0, targets=("q_proj", "up_proj"))


def one_update(tiny, method, batch, **options):
    program, weights = tiny
    optimiser = step.make_optimiser(
        OptimiserSettings(
            learning_rate=0.01,
            warmup_steps=0,
            steps=10,
            final_fraction=1.0,
            weight_decay=0.0,
            max_grad_norm=1.0,
        )
    )
    if method == "lora":
        params = lora.init_factors(program, SETTINGS, jax.random.key(0))
        params = jax.tree.map(lambda x: x + 0.05, params)
        how, kept = lora.Lora(SETTINGS.scale), weights
    else:
        params, how, kept = full.init_masters(weights), full.Full("float32"), {}
    state, metrics = step.train_step(
        step.init_state(params, optimiser),
        kept,
        batch,
        program=program,
        method=how,
        optimiser=optimiser,
        **options,
    )
    # The gradient itself, without Adam's division: its first moment.
    moments = state.optimiser[1][0].mu
    return metrics, moments


def batch_of(uneven, **options):
    batches = Batches([uneven], [1.0], batch_size=8, steps=1, seed=0, **options)
    return batches.at(1)


def assert_same_update(got, want):
    for name in ("loss", "token_accuracy", "grad_norm"):
        assert float(got[0][name]) == pytest.approx(float(want[0][name]), rel=1e-5)
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_accumulated_parts_equal_the_whole_batch_by_tokens(tiny, uneven, method):
    # Rows have 2 or 3 learnt tokens, so a mean of the parts' means would be off.
    batch = batch_of(uneven)
    want = one_update(tiny, method, batch)
    assert_same_update(one_update(tiny, method, batch, accumulate=4), want)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_packed_rows_give_the_update_of_plain_ones(tiny, uneven, method):
    want = one_update(tiny, method, batch_of(uneven))
    dense = batch_of(uneven, packing=True, multiple_of=3)
    assert len(dense.tokens) == 6 and (dense.segments[4:] == 0).all()
    assert_same_update(one_update(tiny, method, dense), want)
    assert_same_update(one_update(tiny, method, dense, accumulate=3), want)


def test_packed_dialogues_do_not_see_each_other(tiny, uneven):
    program, weights = tiny
    batch = batch_of(uneven, packing=True)
    row = next(r for r, s in enumerate(batch.segments) if s.max() > 1)
    loss = jax.jit(
        partial(step.loss, program=program, method=full.Full("float32")),
    )
    second = batch.segments[row] == 2

    def loss_of_second(tokens):
        at = batch.positions[row]
        mask = np.zeros_like(batch.mask)
        mask[row] = batch.mask[row] * second[at]
        changed = batch._replace(tokens=tokens, mask=mask)
        return float(loss(weights, {}, changed, jnp.float32(1))[0])

    other = batch.tokens.copy()
    other[row, batch.segments[row] == 1] += 1
    assert loss_of_second(other) == loss_of_second(batch.tokens)
    own = batch.tokens.copy()
    own[row, np.flatnonzero(second)[0]] += 1
    assert loss_of_second(own) != loss_of_second(batch.tokens)


def test_recomputed_layers_give_the_same_update(tiny, uneven):
    batch = batch_of(uneven)
    want = one_update(tiny, "full", batch)
    assert_same_update(one_update(tiny, "full", batch, recompute=True), want)


def test_recomputed_layers_keep_less(tiny, uneven):
    program, weights = tiny
    batch = batch_of(uneven)

    def kept(recompute):
        """Bytes that the forward pass leaves for the backward pass."""

        def backward(w):
            tokens = jnp.asarray(batch.tokens)
            run = partial(program.hidden, tokens=tokens, recompute=recompute)
            return jax.vjp(run, w)[1]

        left = jax.tree.leaves(jax.eval_shape(backward, weights))
        return sum(x.size * x.dtype.itemsize for x in left)

    assert kept(True) < 0.7 * kept(False)
