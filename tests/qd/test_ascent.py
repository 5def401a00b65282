"""Gradient mutation and evolution strategies, against plain float64 NumPy."""

import collections

import jax
import numpy as np
import pytest

from cycleqd_jax.qd.ascent import (
    ascend,
    draw_perturbations,
    draw_problems,
    draw_task_weights,
    estimated_slopes,
    make_optimiser,
    mixed_slopes,
)

UNITS = np.asarray([2.0, 0.5, 0.0, 1.0], np.float32)
TRAIN = {"a": tuple("abcdef"), "b": tuple("uvw")}


def slopes_of(seed, count=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 2, 4)).astype(np.float32) * UNITS


def test_the_active_task_leads_and_no_weight_is_negative():
    keys = jax.random.split(jax.random.key(0), 150)
    drawn = np.stack([draw_task_weights(k, 3, 1, sigma=0.5) for k in keys])
    assert (drawn[:, 1] == 1).all() and (drawn >= 0).all()
    others = drawn[:, [0, 2]]
    assert np.sqrt((others**2).mean()) == pytest.approx(0.5, rel=0.15)
    assert draw_task_weights(keys[0], 3, 2, sigma=0.0).tolist() == [0, 0, 1]


def test_problems_are_drawn_without_replacement_and_by_key():
    found = [draw_problems(jax.random.key(i), TRAIN, 4) for i in range(20)]
    for one in found:
        assert len(set(one["a"])) == 4 and set(one["a"]) <= set(TRAIN["a"])
        assert sorted(one["b"]) == sorted(TRAIN["b"])
    assert {i for one in found for i in one["a"]} == set(TRAIN["a"])
    assert len({one["a"] for one in found}) > 10
    assert draw_problems(jax.random.key(3), TRAIN, 4) == found[3]


def test_the_mix_is_of_normalised_gradients():
    [slopes] = slopes_of(1)
    weights = np.asarray([1.0, 0.3], np.float32)
    moving = slopes[:, UNITS > 0].astype(np.float64)
    size = np.sqrt((moving**2).mean(axis=1))
    want = sum(w * g / n for w, g, n in zip(weights, slopes, size, strict=True))
    got = mixed_slopes(slopes, weights, UNITS)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    # Scale does not matter, and a gradient of zero adds nothing.
    np.testing.assert_allclose(mixed_slopes(slopes * 7, weights, UNITS), got, rtol=1e-6)
    alone = mixed_slopes(slopes * [[1], [0]], weights, UNITS)
    np.testing.assert_allclose(alone, slopes[0] / size[0], rtol=1e-6)


def test_estimated_gradients_of_a_linear_loss():
    """Exact to float64 by the definition, and near the gradient with many pairs."""
    rng = np.random.default_rng(0)
    slope = rng.standard_normal((2, 5))  # of two tasks
    few = draw_perturbations(jax.random.key(0), 3, 5)
    std, x = 0.1, rng.standard_normal(5)

    def losses(perturbations):
        rows = [
            x + sign * std * e for e in perturbations.astype(float) for sign in (1, -1)
        ]
        return np.stack(rows) @ slope.T

    got = estimated_slopes(losses(few), few, std=std)
    want = sum(np.outer(slope @ e, e) for e in few.astype(np.float64)) / 3
    np.testing.assert_allclose(got, want, rtol=1e-9)
    many = draw_perturbations(jax.random.key(1), 4000, 5)
    np.testing.assert_allclose(
        estimated_slopes(losses(many), many, std=std), slope, atol=0.15
    )


def adam(start, slopes, rate):
    """Adam's formula, in float64."""
    c, m, v = start.astype(np.float64), np.zeros(4), np.zeros(4)
    for t, g in enumerate(slopes.astype(np.float64), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        up = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        c = c - UNITS * rate * up
    return c


@pytest.mark.parametrize("name", ["adam", "normalised"])
def test_steps_equal_their_formula(name):
    start = np.asarray([1.0, 0.5, 0.0, -1.0], np.float32)
    slopes = slopes_of(3, 6)[:, 0]
    optimiser, c = make_optimiser(name, 0.05), start
    state = optimiser.init(start)
    for slope in slopes:
        c, state = ascend(c, state, slope, units=UNITS, optimiser=optimiser)
    plain = start - UNITS * 0.05 * slopes.astype(np.float64).sum(axis=0)
    want = adam(start, slopes, 0.05) if name == "adam" else plain
    np.testing.assert_allclose(c, want, rtol=1e-5, atol=1e-6)
    assert c.dtype == np.float32 and c[2] == 0.0  # padding stays zero


def test_problems_are_drawn_in_proportion_to_their_weights():
    ids, weights = {"a": ("x", "y", "z")}, {"a": (1.0, 1.0, 8.0)}
    keys = jax.random.split(jax.random.key(3), 600)
    drawn = [draw_problems(key, ids, 2, weights)["a"] for key in keys]
    assert all(len(set(pair)) == 2 for pair in drawn)
    first = collections.Counter(pair[0] for pair in drawn)
    second = collections.Counter(pair[1] for pair in drawn if pair[0] == "x")
    assert first["z"] / 600 == pytest.approx(0.8, abs=0.05)
    assert second["z"] / second.total() == pytest.approx(8 / 9, abs=0.12)
