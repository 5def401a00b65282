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


@pytest.mark.parametrize("ridge", [0.0, 1e-3, RIDGE, 10.0])
@pytest.mark.parametrize("shrinkage", [1.0, 0.4, 0.0])
def test_by_inputs(rng, shrinkage, ridge):
    given, grams = row(rng), [gram(rng, 11) for _ in range(3)]
    other = ParameterDeltas("other", (3,), [None, DenseDelta(np.ones(3)), None])
    settings = BasisSettings(
        conditioning="regmean",
        conditioning_ridge=ridge,
        conditioning_shrinkage=shrinkage,
    )
    layers = [{"unchanged": grams}, {"w": grams}]
    got, same = condition_by_inputs([other, given], layers, settings)
    assert same is other and got.name == "w"
    taus = [d and d.dense() for d in given.deltas]
    expected = want(taus, grams, ridge, shrinkage)
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
    looked_up = given._replace(name="model.embed_tokens.weight")
    rows = list(condition_by_themselves([vector, nothing, looked_up], settings))
    assert rows[0] is vector and rows[2] is looked_up
    assert list(rows[1].deltas) == [None] * 3


def wudi_loss(merged, taus):
    """As in the code of Cheng et al. (arXiv 2503.08099)."""
    return sum(np.sum(((merged - t) @ t.T) ** 2) / np.sum(t**2) for t in taus)


def wudi_gradient(merged, taus):
    return sum(2 * (merged - t) @ t.T @ t / np.sum(t**2) for t in taus)


def descend(taus, steps):
    """Gradient descent on WUDI's loss from where its authors start: the sum."""
    curvature = sum(2 * t.T @ t / np.sum(t**2) for t in taus)
    rate, merged = 1 / np.linalg.eigvalsh(curvature)[-1], sum(taus)
    for _ in range(steps):
        merged = merged - rate * wudi_gradient(merged, taus)
    return merged


def summed(deltas, ridge):
    """The sum of the conditioned task vectors."""
    settings = BasisSettings(conditioning="data_free", conditioning_ridge=ridge)
    shape = deltas[0].dense().shape
    [got] = condition_by_themselves([ParameterDeltas("w", shape, deltas)], settings)
    return sum(delta.dense() for delta in got.deltas)


def test_data_free_is_the_minimum_of_wudis_loss(rng):
    """Full-rank task vectors, no ridge: there is one minimum."""
    taus = [rng.standard_normal((12, 8)) * scale for scale in (1.0, 0.3, 2.0)]
    got = summed([DenseDelta(t) for t in taus], ridge=0.0)
    step = 1e-5 * rng.standard_normal(got.shape)
    there = sum(taus)  # the gradient is that of the loss: central differences
    slope = wudi_loss(there + step, taus) - wudi_loss(there - step, taus)
    np.testing.assert_allclose(
        slope, 2 * np.sum(step * wudi_gradient(there, taus)), rtol=1e-7
    )
    assert np.abs(wudi_gradient(got, taus)).max() < 1e-12
    for size in (1e-3, 1.0):
        other = got + size * rng.standard_normal(got.shape)
        assert wudi_loss(other, taus) > wudi_loss(got, taus)
    np.testing.assert_allclose(got, descend(taus, 2000), rtol=1e-8, atol=1e-10)


def test_data_free_of_loras_tends_to_where_wudis_descent_ends(rng):
    """Many minima: descent from the sum keeps to the span, and so does ridge -> 0."""
    shapes = (12, 2), (2, 9)
    loras = [FactoredDelta(*map(rng.standard_normal, shapes)) for _ in range(3)]
    end = descend([lora.dense() for lora in loras], 20_000)
    ridges, scale = (1e-4, 1e-6, 1e-8), np.abs(end).max()
    gaps = [np.abs(summed(loras, ridge) - end).max() / scale for ridge in ridges]
    assert gaps[0] < 0.1 and gaps[2] < 1e-5
    # The gap is linear in the ridge.
    np.testing.assert_allclose(gaps[0] / gaps[1], 100, rtol=0.1)


@pytest.mark.parametrize("size, left", [(3e-4, (0, 0.01)), (1e-2, (0.4, 0.8))])
def test_how_far_wudis_own_iteration_goes(rng, size, left):
    """300 steps of Adam at 1e-5 move an element by 3e-3 at most: they reach the minimum
    for small task vectors, and stay near the sum for large ones."""
    taus = [size * rng.standard_normal((48, 32)) for _ in range(3)]
    merged, mean, square = sum(taus), 0.0, 0.0
    for t in range(1, 301):
        slope = wudi_gradient(merged, taus)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        scaled = np.sqrt(square / (1 - 0.999**t)) + 1e-8
        merged = merged - 1e-5 * mean / (1 - 0.9**t) / scaled
    assert np.abs(merged - sum(taus)).max() < 3.3e-3
    least = wudi_loss(summed([DenseDelta(t) for t in taus], 0.0), taus)
    excess = [wudi_loss(m, taus) - least for m in (sum(taus), merged)]
    assert left[0] <= excess[1] / excess[0] <= left[1]


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
