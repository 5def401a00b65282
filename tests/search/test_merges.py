import types

import numpy as np
import pytest

from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.runs import comparison
from cycleqd_jax.search.merges import best_factors, merges, scaled_name
from cycleqd_jax.tasks.base import Split

TRIED = {
    "uniform_merge": {"a": 1.0, "b": 1.0},  # is no factor
    "scaled_merge/0.3": {"a": 0.5, "b": 0.25},
    "scaled_merge/0.4": {"a": 0.25, "b": 0.5},
    "scaled_merge/1": {"a": 0.0, "b": 0.5},
}


def test_all_factors_of_the_best_mean():
    assert best_factors(TRIED, [1.0, 0.4, 0.3]) == (0.3, 0.4)
    assert best_factors(TRIED, [1.0]) == (1.0,)


@pytest.mark.parametrize(
    "scores, chosen",
    [({"0.3": 0.0, "0.4": 1.0}, 0.4), ({"0.3": 1.0, "0.4": 1.0}, 0.3), ({}, 0.3)],
)
def test_a_tie_is_broken_on_validate(basis, scores, chosen):
    asked = []

    class Cached:
        def scores(self, part, individuals, split):
            asked.append((part, list(individuals), split))
            return {f"scaled_merge/{name}": {"a": s} for name, s in scores.items()}

    assert comparison._break_tie(Cached(), basis, (0.3, 0.4)) == chosen
    names = ["scaled_merge/0.3", "scaled_merge/0.4"]
    assert asked == [("merges-validate", names, Split.VALIDATE)]
    assert comparison._break_tie(Cached(), basis, (0.5,)) == 0.5 and len(asked) == 1


def test_merges_are_sums_of_task_vectors(basis):
    made = merges(basis, [0.5])
    assert list(made) == ["uniform_merge", "scaled_merge/0.5"]
    total = sum(basis.expert_coefficients(k) for k in range(3))
    assert made["scaled_merge/0.5"].coefficients == pytest.approx(0.5 * total)
    assert made["uniform_merge"].coefficients == pytest.approx(total / 3)


@pytest.fixture
def basis():
    rng = np.random.default_rng(0)
    base = {"up.weight": rng.standard_normal((5, 4))}
    experts = [
        types.SimpleNamespace(weights={"up.weight": rng.standard_normal((5, 4))})
        for _ in range(3)
    ]
    return compute_basis(base, experts)


def test_factors_that_agree_in_six_digits_are_two_merges():
    assert scaled_name(0.5) == "scaled_merge/0.5" and scaled_name(1.0).endswith("/1")
    assert scaled_name(0.3000001) != scaled_name(0.3)
