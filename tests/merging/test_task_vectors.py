import types

import ml_dtypes
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.task_vectors import (
    ExpertWeights,
    iterate_task_vectors,
    task_vector,
)

UP = "model.layers.0.mlp.up_proj.weight"
NORM = "model.norm.weight"


@pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
def test_dense_form_equals_the_difference(make, kind):
    base = make.base()
    experts = make.experts(kind, base)
    taus = make.dense_taus(base, experts)
    seen = set()
    for row in iterate_task_vectors(base, experts):
        assert row.is_matrix == (len(row.shape) == 2)
        seen |= {row.name} if any(row.deltas) else set()
        for delta, tau in zip(row.deltas, taus, strict=True):
            if delta is None:
                assert not tau[row.name].any()
            else:
                np.testing.assert_allclose(delta.dense(), tau[row.name], rtol=1e-12)
    assert seen == {n for n in base if any(tau[n].any() for tau in taus)}


def test_bfloat16_weights_are_subtracted_in_float64(make):
    base = make.base(dtype=ml_dtypes.bfloat16)
    expert = make.experts("full", base)[0]
    delta = task_vector(base, expert, UP).dense()
    assert delta.dtype == np.float64
    want = expert.weights[UP].astype(np.float64) - base[UP].astype(np.float64)
    np.testing.assert_array_equal(delta, want)


def test_an_expert_may_replace_some_parameters_and_adapt_others(make):
    base = make.base()
    expert = make.experts("lora", base)[0]
    expert.replacements = {NORM: base[NORM] + 1}
    rows = {r.name: next(iter(r.deltas)) for r in iterate_task_vectors(base, [expert])}
    assert set(rows) == {UP, NORM}
    np.testing.assert_allclose(rows[NORM].dense(), 1, rtol=1e-6)


def refused(base, expert, match):
    with pytest.raises(BadInputError, match=match):
        for row in iterate_task_vectors(base, [expert], ["db"]):
            list(row.deltas)


def test_wrong_experts_are_refused_by_name(make):
    base = make.base()
    full = make.experts("full", base)[0]
    lora = make.experts("lora", base)[0]
    wrong = types.SimpleNamespace(weights={**full.weights, UP: np.zeros((10, 7))})
    refused(base, wrong, rf"^db: {UP} should have shape \[10, 6\].*has \[10, 7\]")
    extra = types.SimpleNamespace(weights={**full.weights, "lm_head.weight": 0})
    refused(base, extra, r"^db: the base model has no parameter lm_head.weight \(1")
    less = {n: w for n, w in full.weights.items() if n != NORM}
    refused(base, types.SimpleNamespace(weights=less), f"{NORM}.*is missing")
    broken = {**full.weights, NORM: np.full(6, np.nan, np.float32)}
    refused(base, types.SimpleNamespace(weights=broken), "not finite")
    broken = {**base, NORM: np.full(6, np.inf, np.float32)}
    refused(broken, full, f"^base model: {NORM} holds values that are not finite")
    factor = lora.factors[UP]
    short = types.SimpleNamespace(b=factor.b[:-1], a=factor.a, scale=1.0)
    refused(base, types.SimpleNamespace(factors={UP: short}), r"has \[9, 6\]")
    torn = types.SimpleNamespace(b=factor.b[:, :1], a=factor.a, scale=1.0)
    refused(base, types.SimpleNamespace(factors={UP: torn}), "should be B")
    vector = types.SimpleNamespace(factors={NORM: factor})
    refused(base, vector, rf"^db: {NORM} should have shape \[6\]")
    lora.replacements = {UP: base[UP]}
    refused(base, lora, "both LoRA factors and replaced weights")


def test_names_must_differ(make):
    base = make.base()
    with pytest.raises(BadInputError, match="different names"):
        list(iterate_task_vectors(base, make.experts("lora", base), ["a", "a", "b"]))


def test_weights_beyond_the_dtype_of_the_run_are_refused(make):
    base = make.base(dtype=np.float16)
    weights = {n: w.astype(np.float32) for n, w in base.items()}
    weights[UP][2, 3] = 1e5
    expert = types.SimpleNamespace(weights=weights)
    refused(base, expert, f"^db: {UP} holds 1e.05, which is beyond .* float16")
    alone = types.SimpleNamespace(factors={}, replacements={UP: weights[UP]})
    with pytest.raises(BadInputError, match="beyond the range of float16"):
        ExpertWeights(base, alone)[UP]
