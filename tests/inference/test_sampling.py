"""Draws and log-probabilities against transformers' own, and against chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import logits_process

from cycleqd_jax.inference.sampling import (
    RowSampling,
    allowed,
    greedy,
    logprob_of,
    sample,
)

allow, draw = jax.jit(allowed), jax.jit(sample)


def draws(rows, *, temperature=1.0, top_k=0, top_p=1.0, seeds=None, count=0):
    return RowSampling(
        jnp.full(rows, temperature, jnp.float32),
        jnp.full(rows, top_k, jnp.int32),
        jnp.full(rows, top_p, jnp.float32),
        jnp.arange(rows, dtype=jnp.uint32) if seeds is None else seeds,
        jnp.full(rows, count, jnp.int32),
    )


@pytest.fixture(scope="module")
def logits():
    rng = np.random.default_rng(0)
    scales = np.array([[0.1], [1.0], [3.0], [9.0], [30.0]])
    return (scales * rng.standard_normal((5, 700))).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 7, 699, 5000])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999, 1.0])
def test_the_tokens_that_may_be_drawn_are_those_of_transformers(
    logits, temperature, top_k, top_p
):
    scores = torch.from_numpy(logits)
    chain = [logits_process.TemperatureLogitsWarper(temperature)]
    if top_k:
        chain.append(logits_process.TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(logits_process.TopPLogitsWarper(top_p))
    for warper in chain:
        scores = warper(None, scores)
    want = torch.isfinite(scores).numpy()
    settings = draws(5, temperature=temperature, top_k=top_k, top_p=top_p)
    got = np.asarray(allow(jnp.asarray(logits), settings))
    for row in np.flatnonzero((got != want).any(axis=1)):
        # Only a token at the very edge of p, where the order of a sum decides.
        (odd,) = np.flatnonzero(got[row] != want[row])
        shares = np.asarray(
            jax.nn.softmax(logits[row].astype(np.float64) / temperature)
        )
        if top_k:
            shares = np.where(np.argsort(np.argsort(-shares)) < top_k, shares, 0)
            shares = shares / shares.sum()
        before = shares[shares > shares[odd]].sum()
        assert abs(before - top_p) < 1e-5


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("size", [640, 700])
def test_greedy_takes_the_first_of_the_most_likely(size, divided):
    """In blocks (640 tokens) and without."""
    rng = np.random.default_rng(0)
    # Few values, so that many are equal, within a block and across blocks.
    rows = rng.integers(0, 4, (50, size)).astype(np.float32)
    rows[0], rows[1, :-1], rows[2, 300] = -np.inf, -np.inf, np.inf
    got = greedy(rows, divided=divided)
    np.testing.assert_array_equal(got, rows.argmax(axis=1))


def test_draws_follow_the_probabilities():
    """A chi-square test at the 0.1 % level, 40 000 draws of 12 tokens."""
    rng = np.random.default_rng(3)
    logits = rng.standard_normal(12).astype(np.float32)
    count, temperature = 40_000, 0.7
    rows = jnp.broadcast_to(jnp.asarray(logits), (count, 12))
    for settings, limit in (({}, 31.26), ({"top_k": 5}, 18.47)):
        got = np.bincount(
            draw(rows, draws(count, temperature=temperature, **settings)), minlength=12
        )
        shares = np.exp(logits.astype(np.float64) / temperature)
        if settings:
            shares[np.argsort(-logits)[5:]] = 0
        shares /= shares.sum()
        assert (got[shares == 0] == 0).all()
        want = count * shares[shares > 0]
        # Degrees of freedom: 11 and 4.
        assert ((got[shares > 0] - want) ** 2 / want).sum() < limit


def test_a_draw_is_a_function_of_seed_and_place(logits):
    rows = jnp.broadcast_to(jnp.asarray(logits[1]), (64, 700))
    seeds = jnp.asarray(np.arange(64) % 4, jnp.uint32)
    got = np.asarray(draw(rows, draws(64, seeds=seeds)))
    assert (got == np.tile(got[:4], 16)).all() and len(set(got[:4])) > 1
    later = np.asarray(draw(rows, draws(64, seeds=seeds, count=1)))
    assert (later != got).any()


def test_temperature_zero_is_greedy_beside_rows_that_draw(logits):
    mixed = draws(5)._replace(temperature=jnp.asarray([0, 1, 0, 2, 0], jnp.float32))
    got, best = draw(jnp.asarray(logits), mixed), greedy(jnp.asarray(logits))
    assert (np.asarray(got)[::2] == np.asarray(best)[::2]).all()


def test_log_probabilities_are_those_of_torch(logits):
    tokens = np.array([3, 699, 0, 41, 5])
    want = torch.log_softmax(torch.from_numpy(logits.astype(np.float64)), -1)
    want = want[torch.arange(5), torch.from_numpy(tokens)].numpy()
    got = logprob_of(jnp.asarray(logits), jnp.asarray(tokens))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-37])
def test_the_colder_the_more_greedy(logits, temperature):
    settings = draws(5, temperature=temperature)
    drawn = draw(jnp.asarray(logits), settings)
    np.testing.assert_array_equal(drawn, np.argmax(logits, axis=-1))
