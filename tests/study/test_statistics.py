"""Intervals and p-values on simulated scores whose truth is known."""

import numpy as np
import pytest

from cycleqd_jax.study.statistics import Layout, estimate, holm

TASKS, TEMPLATES, EACH = 3, 20, 3
LAYOUT = Layout(
    np.repeat(np.arange(TASKS), TEMPLATES * EACH),
    np.repeat(np.arange(TASKS * TEMPLATES), EACH),
)


def simulate(rng, seeds, truth=0.0, of_seed=0.05, of_template=0.2, noise=0.4):
    """Differences with an effect of the seed, of the template, and of both."""
    count = LAYOUT.tasks.size
    return (
        truth
        + of_seed * rng.standard_normal((seeds, 1))
        + of_template * rng.standard_normal(TASKS * TEMPLATES)[LAYOUT.templates]
        + noise * rng.standard_normal((seeds, count))
    )


@pytest.mark.parametrize(
    ("seeds", "of_seed", "of_template"),
    [(2, 0.05, 0.2), (5, 0.05, 0.2), (5, 0.0, 0.3), (5, 0.1, 0.0), (1, 0.0, 0.3)],
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(
    seeds, of_seed, of_template
):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        scores = simulate(rng, seeds, 0.07, of_seed, of_template)
        got = estimate(scores, LAYOUT, resamples=200)
        hits += got.low <= 0.07 <= got.high
    assert 0.92 <= hits / 300 <= 0.995


def test_rivals_as_good_as_the_reference_are_rarely_found_different():
    """Four of them share the reference's scores, as in a comparison."""
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(200):
        reference = simulate(rng, 3)
        p_values = {
            str(i): estimate(simulate(rng, 3) - reference, LAYOUT, resamples=200)[-1]
            for i in range(4)
        }
        found += min(holm(p_values).values()) < 0.05
    assert found / 200 <= 0.08


def test_a_true_difference_is_found():
    rng = np.random.default_rng(2)
    found = [
        estimate(simulate(rng, 5, 0.15), LAYOUT, resamples=200).p_value < 0.05
        for _ in range(100)
    ]
    assert np.mean(found) > 0.8


def test_the_error_has_the_parts_of_both_reasons():
    """The spread of means over many simulated comparisons."""
    rng = np.random.default_rng(3)
    made = [simulate(rng, 4) for _ in range(400)]
    spread = np.std([scores.mean() for scores in made])
    errors = [estimate(s, LAYOUT, resamples=200).standard_error for s in made[:100]]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.15)


def test_tasks_weigh_the_same_whatever_their_number_of_problems():
    layout = Layout(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 3]))
    got = estimate(np.array([[1.0, 1.0, 1.0, 0.0]] * 2), layout, resamples=50)
    assert got.value == 0.5


def test_equal_scores_have_no_error_and_no_difference():
    got = estimate(np.zeros((3, LAYOUT.tasks.size)), LAYOUT, resamples=50)
    assert got == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_equal_inputs_give_equal_estimates():
    scores = simulate(np.random.default_rng(0), 3)
    first, second = (estimate(scores, LAYOUT, resamples=50) for _ in range(2))
    assert first == second


def test_templates_of_one_kind_have_a_layout_of_their_own():
    got = LAYOUT.subset(LAYOUT.templates >= 40)  # only the last task's
    assert set(got.tasks) == {0} and set(got.templates) == set(range(20))


def test_holm_by_hand():
    got = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.9})
    assert got == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.9})
