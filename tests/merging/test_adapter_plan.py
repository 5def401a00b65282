"""What an adapter leaves out, against sums made by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from cycleqd_jax.merging.adapter_plan import percent, plan_adapter

MATRIX = "model.layers.0.mlp.up_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)

    def draw(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    base = {MATRIX: draw(24, 16), EMBEDDING: draw(32, 16), NORM: draw(16)}
    factors = {
        MATRIX: (draw(24, 3, scale=0.01), draw(3, 16, scale=0.01)),
        EMBEDDING: (draw(32, 2, scale=0.1), draw(2, 16, scale=0.1)),
    }
    weights = dict(base)
    for name, (b, a) in factors.items():
        weights[name] = (base[name] + b @ a).astype(np.float32)
    return base, weights, factors, draw


def test_a_low_rank_change_is_held_exactly(parts):
    base, weights, factors, _ = parts
    plan = plan_adapter(base, weights, factors, tied_embeddings=False)
    assert plan.is_exact and plan.lost_share == 0.0 and not plan.lost
    for name, (b, a) in factors.items():
        np.testing.assert_array_equal(plan.factors[name].b, b)
        np.testing.assert_array_equal(plan.factors[name].a, a)
        assert plan.factors[name].scale == 1.0
    want = sum(np.sum((b.astype(float) @ a) ** 2) for b, a in factors.values())
    assert plan.change == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_cut_adapter_is_the_nearest_one_of_its_rank(parts, rank):
    base, weights, factors, _ = parts
    plan = plan_adapter(base, weights, factors, tied_embeddings=False, max_rank=rank)
    lost = change = 0.0
    for name, (b, a) in factors.items():
        product = b.astype(np.float64) @ a
        singular = np.linalg.svd(product, compute_uv=False)
        change += np.sum(singular**2)
        lost += np.sum(singular[rank:] ** 2)
        factor = plan.factors[name]
        assert factor.b.shape[1] == min(rank, b.shape[1])
        rest = np.linalg.norm(product - factor.b.astype(np.float64) @ factor.a)
        assert rest == pytest.approx(np.sqrt(np.sum(singular[rank:] ** 2)), abs=1e-6)
    assert plan.rank == rank
    assert plan.lost_share == pytest.approx(lost / change, rel=1e-3, abs=1e-9)
    assert plan.is_exact == (rank == 3)


@pytest.mark.parametrize("what", ["norm", "tied", "residual", "noise"])
def test_the_lost_share_is_that_of_the_energy(parts, what):
    base, weights, factors, draw = parts
    if what == "norm":
        weights[NORM] = base[NORM] + draw(16, scale=0.01)
    if what == "residual":
        weights[MATRIX] = weights[MATRIX] + draw(24, 16, scale=1e-3)
    if what == "noise":
        weights = {n: w + draw(*w.shape, scale=1e-5) for n, w in weights.items()}
    plan = plan_adapter(base, weights, factors, tied_embeddings=what == "tied")
    change = lost = 0.0
    for name, old in base.items():
        delta = weights[name].astype(np.float64) - old
        change += np.sum(delta**2)
        if name in factors and not (what == "tied" and name == EMBEDDING):
            b, a = factors[name]
            delta = delta - b.astype(np.float64) @ a
        lost += np.sum(delta**2)
    assert not plan.is_exact
    assert plan.change == pytest.approx(change, rel=1e-12)
    assert plan.lost_share == pytest.approx(lost / change, rel=1e-3)
    names = {"norm": {NORM}, "tied": {EMBEDDING}, "residual": {MATRIX}}
    assert plan.lost.keys() == names.get(what, base.keys())
    words = {"norm": "in norms", "tied": "also the head"}.get(what, "beyond their low")
    assert words in plan.describe_loss()
    assert plan.describe_loss().startswith(f"{percent(plan.lost_share)} of the change")
    assert (EMBEDDING in plan.factors) == (what != "tied")


def test_weights_that_are_the_same_objects_are_not_read(parts):
    base, weights, factors, _ = parts
    base[NORM] = weights[NORM] = object()
    assert plan_adapter(base, weights, factors, tied_embeddings=False).is_exact


def test_a_base_of_fewer_bits(parts):
    base, _, factors, _ = parts
    low = {name: jnp.asarray(w, jnp.bfloat16) for name, w in base.items()}
    weights = {name: w.astype(jnp.float32) for name, w in low.items()}
    for name, (b, a) in factors.items():
        weights[name] = weights[name] + b @ a
    assert plan_adapter(low, weights, factors, tied_embeddings=False).is_exact


def test_empty_ranks_are_left_out(parts):
    base, weights, factors, draw = parts
    padded = {
        name: (
            np.concatenate([b, np.zeros_like(b), draw(len(b), 1)], axis=1),
            np.concatenate([a, draw(*a.shape), np.zeros_like(a[:1])]),
        )
        for name, (b, a) in factors.items()
    }
    plan = plan_adapter(base, weights, padded, tied_embeddings=False)
    assert plan.is_exact
    for name, (b, a) in factors.items():
        np.testing.assert_array_equal(plan.factors[name].b, b)
        np.testing.assert_array_equal(plan.factors[name].a, a)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_more_ranks_than_the_matrix_has_are_shortened(shape):
    rng = np.random.default_rng(1)
    b = rng.standard_normal((shape[0], 20)).astype(np.float32)
    a = rng.standard_normal((20, shape[1])).astype(np.float32)
    base = {MATRIX: np.zeros(shape, np.float32)}
    weights = {MATRIX: (b.astype(np.float64) @ a).astype(np.float32)}
    plan = plan_adapter(base, weights, {MATRIX: (b, a)}, tied_embeddings=False)
    factor = plan.factors[MATRIX]
    assert factor.b.shape[1] == factor.a.shape[0] == min(shape)
    np.testing.assert_array_equal(factor.b @ factor.a, weights[MATRIX])
    assert plan.is_exact


def test_no_change_loses_nothing():
    base = {MATRIX: np.ones((4, 4), np.float32)}
    zero = (np.zeros((4, 2), np.float32), np.ones((2, 4), np.float32))
    plan = plan_adapter(base, dict(base), {MATRIX: zero}, tied_embeddings=False)
    assert plan.is_exact and plan.lost_share == 0.0


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.1234, "12 %"), (3e-6, "0.0003 %"), (1.0, "100 %"), (0.9999, "100 %")],
)
def test_percent(share, words):
    assert percent(share) == words
