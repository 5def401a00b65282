"""Recipes against dense definitions, and against PEFT's."""

import types

import jax
import numpy as np
import pytest

from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.merging.recipes import (
    MergedWeights,
    drop,
    merge_by_sign,
    slerp,
    trim,
)


def named(experts):
    return {f"expert {k}": expert for k, expert in enumerate(experts)}


def dense(recipe, taus, name, place):
    """The definition, element by element in plain Python; float64."""
    shape = taus[0][name].shape
    key = jax.random.fold_in(jax.random.key(recipe.seed), place)
    thinned = []
    for k, tau in enumerate(taus):
        values = tau[name].ravel()
        if recipe.method == "ties":
            keep = max(int(recipe.density * values.size), 1)
            stays = np.zeros(values.size, bool)
            stays[np.argsort(-np.abs(values), kind="stable")[:keep]] = True
            thinned.append(np.where(stays, values, 0.0))
        else:
            stays = jax.random.bernoulli(
                jax.random.fold_in(key, k), recipe.density, shape
            )
            stays = np.asarray(stays).ravel()
            thinned.append(np.where(stays, values / recipe.density, 0.0))
    merged = np.zeros(thinned[0].size)
    for i in range(merged.size):
        column = [values[i] for values in thinned]
        if recipe.method != "dare":
            positive = sum(column) >= 0
            column = [x for x in column if (x > 0 if positive else x < 0)]
        total = sum(column)
        merged[i] = total if recipe.method == "dare" else total / max(len(column), 1)
    return recipe.factor * merged.reshape(shape)


@pytest.mark.parametrize("method", ["ties", "dare", "dare_ties"])
@pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
def test_equals_its_dense_definition(make, method, kind, density):
    base = make.base()
    experts = make.experts(kind, base)
    taus = make.dense_taus(base, experts)
    recipe = Recipe(method, factor=0.7, density=density, seed=5)
    merged = MergedWeights(base, named(experts), recipe)
    assert list(merged) == list(base) and len(merged) == len(base)
    for name, w in base.items():
        if not any(np.any(tau[name]) for tau in taus):
            assert merged[name] is w
            continue
        want = w + dense(recipe, taus, name, sorted(base).index(name))
        assert merged[name].dtype == w.dtype
        np.testing.assert_allclose(merged[name], want, rtol=3e-7, atol=3e-7)


def test_ties_without_trimming_and_dare_without_drops(make):
    """At density 1 DARE is the sum; TIES is the mean where all signs agree."""
    base = make.base()
    experts = make.experts("full", base)
    total = {name: np.zeros(w.shape) for name, w in base.items()}
    for tau in make.dense_taus(base, experts):
        total = {name: total[name] + tau[name] for name in base}
    merged = MergedWeights(base, named(experts), Recipe("dare", 1.0, 1.0))
    for name, w in base.items():
        np.testing.assert_allclose(merged[name], w + total[name], atol=1e-6)
    alike = merge_by_sign(np.array([[1.0, -2.0, 0.0], [3.0, -4.0, 0.0]]))
    assert alike.tolist() == [2.0, -3.0, 0.0]


def test_against_peft():
    """PEFT's functions on dense tensors; the draws of DARE are ours."""
    torch = pytest.importorskip("torch")
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    rng = np.random.default_rng(3)
    deltas = rng.standard_normal((3, 13, 7))
    tensors, ones = [torch.tensor(d) for d in deltas], torch.ones(3)
    want = merge_utils.ties(tensors, ones, density=0.3)
    got = merge_by_sign(np.stack([trim(d, 0.3) for d in deltas]))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = np.stack([drop(d, 0.6, k) for d, k in zip(deltas, keys, strict=True)])
    stacked = torch.tensor(drawn)
    signs = merge_utils.calculate_majority_sign_mask(stacked, method="total")
    want = merge_utils.disjoint_merge(stacked, signs)
    np.testing.assert_allclose(merge_by_sign(drawn), want, rtol=1e-12)


def test_drops_keep_the_mean_and_are_independent():
    """The expectation of DARE is the task vector; experts and parameters differ."""
    ones = np.ones((200, 200))
    dropped = drop(ones, 0.25, jax.random.key(1))
    assert set(np.unique(dropped)) == {0.0, 4.0}
    assert abs(dropped.mean() - 1) < 5 * np.sqrt(3) / 200  # five standard errors
    names = ("a", "b")
    base = {name: np.zeros((40, 40), np.float32) for name in names}
    expert = types.SimpleNamespace(weights={n: w + 1 for n, w in base.items()})
    made = set()
    for seed in (0, 1):
        recipe = Recipe("dare", factor=1.0, density=0.5, seed=seed)
        merged = MergedWeights(base, {"x": expert, "y": expert}, recipe)
        for name in names:
            # 0, 2 or 4: both experts dropped, one, none; a quarter, a half, a quarter
            counts = np.bincount(merged[name].astype(int).ravel(), minlength=5)
            assert abs(counts[2] / 1600 - 0.5) < 0.07 and counts[1] == counts[3] == 0
            made.add(merged[name].tobytes())
            np.testing.assert_array_equal(merged[name], merged[name])
    assert len(made) == 4


def test_bfloat16_weights_are_rounded_once(make):
    import ml_dtypes

    base = make.base(dtype=ml_dtypes.bfloat16)
    experts = make.experts("lora", base)
    recipe = Recipe("ties", factor=1.0, density=0.5)
    name = "model.layers.0.mlp.up_proj.weight"
    got = MergedWeights(base, named(experts), recipe)[name]
    taus = make.dense_taus(base, experts)
    want = base[name].astype(float) + dense(recipe, taus, name, 1)
    np.testing.assert_array_equal(got, want.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("method", ["ties", "dare", "dare_ties"])
def test_weights_are_those_of_their_definition(make, method, normalise):
    """Element by element; one weight is negative, and turns its expert's signs."""
    base, weights = make.base(), (0.7, -0.4, 1.5)
    experts = make.experts("full", base)[:3]
    taus = make.dense_taus(base, experts)
    recipe = Recipe(method, 0.8, 0.5, 3, weights, normalise)
    merged = MergedWeights(base, named(experts), recipe)
    for place, name in enumerate(sorted(base)):
        key = jax.random.fold_in(jax.random.key(3), place)
        thinned = [
            trim(tau[name], 0.5)
            if method == "ties"
            else drop(tau[name], 0.5, jax.random.fold_in(key, k))
            for k, tau in enumerate(taus)
        ]
        want = np.zeros(base[name].size)
        for i, column in enumerate(zip(*(t.ravel() for t in thinned), strict=True)):
            pairs = [(w * x, w) for w, x in zip(weights, column, strict=True)]
            if method != "dare":
                sign = 1 if sum(x for x, _ in pairs) >= 0 else -1
                pairs = [(x, w) for x, w in pairs if x * sign > 0]
            total, divisor = sum(x for x, _ in pairs), sum(w for _, w in pairs)
            by = divisor if normalise and method != "dare" and divisor else 1.0
            want[i] = total / by
        want = base[name] + 0.8 * want.reshape(base[name].shape)
        np.testing.assert_allclose(merged[name], want, rtol=1e-6, atol=1e-6)


def test_slerp_keeps_the_length_on_the_way():
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, 6, 5))
    two *= np.linalg.norm(one) / np.linalg.norm(two)
    for share in (0.0, 0.25, 0.5, 1.0):
        got = slerp(one, two, share)
        assert np.linalg.norm(got) == pytest.approx(np.linalg.norm(one))
        cosine = np.vdot(one, got) / np.linalg.norm(one) ** 2
        whole = np.arccos(np.vdot(one, two) / np.linalg.norm(one) ** 2)
        assert np.arccos(min(cosine, 1.0)) == pytest.approx(share * whole, abs=1e-6)
    near = one + 1e-3 * two
    np.testing.assert_allclose(slerp(one, near, 0.3), 0.7 * one + 0.3 * near)
    np.testing.assert_allclose(slerp(one, 0 * one, 0.3), 0.7 * one)


def test_slerp_is_between_the_whole_weights_of_two_experts(make):
    base = make.base()
    experts = make.experts("mixed", base)[:2]
    taus = make.dense_taus(base, experts)
    recipe = Recipe("slerp", 1.0, 1.0, weights=(0.4, 0.6))
    merged = MergedWeights(base, named(experts), recipe)
    for name, w in base.items():
        want = slerp(w + taus[0][name], w + taus[1][name], 0.6)
        np.testing.assert_allclose(merged[name], want, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"method": "lerp"}, "expected one of ties, dare, .*, slerp, got 'lerp'"),
        ({"density": 0.0}, "density above 0 and at most 1"),
        ({"seed": -1}, "seed of 32 bits"),
    ],
)
def test_wrong_recipes_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**{"method": "ties", "factor": 1.0, "density": 0.5} | wrong)
