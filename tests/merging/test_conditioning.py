"""Conditioning against its definition, in dense float64."""

import types

import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.conditioning import (
    condition_by_inputs,
    condition_by_themselves,
)
from cycleqd_jax.merging.genome import expert_genome, scaled_sum
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.merging.task_vectors import (
    DenseDelta,
    FactoredDelta,
    ParameterDeltas,
)

RIDGE = 0.03


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def gram(rng, size, tokens=40):
    x = rng.standard_normal((tokens, size)) * rng.gamma(1.0, size=size)
    return x.T @ x / tokens


def want(taus, grams, ridge=RIDGE, shrinkage=1.0):
    """The definition: one dense inverse."""
    grams = [
        shrinkage * g + (1 - shrinkage) * np.diag(np.diag(g))
        for g in map(np.array, grams)
    ]
    total, eye = sum(grams), np.eye(len(grams[0]))
    d = ridge * np.mean(np.diag(total))
    inverse = np.linalg.inv(total + d * eye)
    return [
        None if tau is None else tau @ (g + d / len(grams) * eye) @ inverse
        for tau, g in zip(taus, grams, strict=True)
    ]


def row(rng, out=7, size=11):
    """A LoRA, a full fine-tune, and an expert that does not change the matrix."""
    lora = FactoredDelta(rng.standard_normal((out, 2)), rng.standard_normal((2, size)))
    deltas = [lora, DenseDelta(rng.standard_normal((out, size))), None]
    return ParameterDeltas("w", (out, size), deltas)


@pytest.mark.parametrize("shrinkage", [1.0, 0.4, 0.0])
def test_by_inputs(rng, shrinkage):
    given, grams = row(rng), [gram(rng, 11) for _ in range(3)]
    other = ParameterDeltas("other", (3,), [None, DenseDelta(np.ones(3)), None])
    settings = BasisSettings(
        conditioning="regmean",
        conditioning_ridge=RIDGE,
        conditioning_shrinkage=shrinkage,
    )
    layers = [{"unchanged": grams}, {"w": grams}]
    got, same = condition_by_inputs([other, given], layers, settings)
    assert same is other and got.name == "w"
    taus = [d and d.dense() for d in given.deltas]
    expected = want(taus, grams, shrinkage=shrinkage)
    for delta, tau in zip(got.deltas, expected, strict=True):
        assert (delta is None) == (tau is None)
        if delta is not None:
            np.testing.assert_allclose(delta.dense(), tau, rtol=1e-9, atol=1e-11)
    lora = next(iter(got.deltas))
    assert lora.a.shape == (2, 11) and lora.b is given.deltas[0].b


def test_without_ridge_the_sum_is_regmean(rng):
    """Jin et al., equation 2: (sum of W_k G_k)(sum of G_k)^-1, base taken out."""
    base = rng.standard_normal((7, 11))
    grams = [gram(rng, 11) for _ in range(2)]
    taus = [rng.standard_normal((7, 11)) for _ in range(2)]
    regmean = sum((base + t) @ g for t, g in zip(taus, grams, strict=True))
    regmean = regmean @ np.linalg.inv(sum(grams))
    given = ParameterDeltas("w", (7, 11), [DenseDelta(t) for t in taus])
    settings = BasisSettings(conditioning="regmean", conditioning_ridge=0.0)
    [got] = condition_by_inputs([given], [{"w": grams}], settings)
    total = base + sum(delta.dense() for delta in got.deltas)
    np.testing.assert_allclose(total, regmean, rtol=1e-8)


def test_by_themselves(rng):
    given = row(rng)
    taus = [d and d.dense() for d in given.deltas]
    grams = [np.zeros((11, 11)) if t is None else t.T @ t / np.sum(t**2) for t in taus]
    settings = BasisSettings(conditioning="data_free", conditioning_ridge=RIDGE)
    [got] = condition_by_themselves([given], settings)
    for delta, tau in zip(got.deltas, want(taus, grams), strict=True):
        assert (delta is None) == (tau is None)
        if delta is not None:
            np.testing.assert_allclose(delta.dense(), tau, rtol=1e-8, atol=1e-10)
    vector = ParameterDeltas("b", (4,), [None, None, DenseDelta(np.ones(4))])
    nothing = ParameterDeltas("n", (4, 4), [None, None, None])
    assert [r.name for r in condition_by_themselves([vector, nothing], settings)] == [
        "b",
        "n",
    ]
    assert list(next(condition_by_themselves([nothing], settings)).deltas) == [None] * 3


@pytest.mark.parametrize("tokens", [3, 11])
def test_a_singular_sum_is_refused(rng, tokens):
    """Too few tokens; or as many as needed, but one input that is never used."""
    grams = [gram(rng, 11, tokens) for _ in range(2)]
    for one in grams:
        one[4] = one[:, 4] = 0
    given = ParameterDeltas("w", (7, 11), [DenseDelta(np.ones((7, 11))), None])
    settings = BasisSettings(conditioning="regmean", conditioning_ridge=0.0)
    [got] = condition_by_inputs([given], [{"w": grams}], settings)
    with pytest.raises(
        BadInputError, match=r"of w have a singular sum.* set it to 0.01"
    ):
        list(got.deltas)
    fine = settings.model_copy(update={"conditioning_ridge": 0.01})
    [got] = condition_by_inputs([given], [{"w": grams}], fine)
    assert len(list(got.deltas)) == 2


def test_the_basis_holds_the_conditioned_experts(rng):
    """From experts to weights: each genome, and the sum of all."""
    shapes = {"a.weight": (7, 11), "b.weight": (11, 7), "norm.weight": (7,)}
    base = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    experts = [
        types.SimpleNamespace(
            weights={n: w + rng.standard_normal(w.shape) for n, w in base.items()}
        )
        for _ in range(2)
    ]
    grams = {n: [gram(rng, s[1]) for _ in range(2)] for n, s in shapes.items() if s[1:]}
    settings = BasisSettings(conditioning="regmean", conditioning_ridge=RIDGE)
    layers = [{n: g} for n, g in grams.items()]
    basis = compute_basis(base, experts, settings, layers=layers)
    total = materialise(base, basis, scaled_sum(basis, 1.0))
    first = materialise(base, basis, expert_genome(basis, 0))
    for name, w in base.items():
        taus = [np.float64(e.weights[name]) - np.float64(w) for e in experts]
        taus = want(taus, grams[name]) if name in grams else taus
        np.testing.assert_allclose(total[name], w + sum(taus), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(first[name], w + taus[0], rtol=1e-4, atol=1e-5)
