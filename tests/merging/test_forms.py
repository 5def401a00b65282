"""Residuals, similarity and the core form, against dense task vectors."""

import jax
import numpy as np
import pytest

from cycleqd_jax.merging import genome as genomes
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.core_basis import core_basis, core_shapes
from cycleqd_jax.merging.facts import similarities
from cycleqd_jax.merging.forms import basis_shapes
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.merging.task_vectors import ExpertWeights

KINDS = pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
FORMS = pytest.mark.parametrize("form", ["diagonal", "core"])


def in_form(basis, form):
    return core_basis(basis) if form == "core" else basis


@KINDS
@FORMS
@pytest.mark.parametrize("rank", [1, 2])
def test_kept_residuals_make_every_mix_of_experts_exact(make, kind, form, rank):
    base = make.base()
    experts = make.experts(kind, base)
    settings = BasisSettings(rank=rank, residual="keep")
    basis = in_form(compute_basis(base, experts, settings), form)
    assert basis.residuals
    taus = make.dense_taus(base, experts)
    batch = genomes.stack_genomes([genomes.expert_genome(basis, k) for k in range(3)])
    got = materialise(base, basis, genomes.linear_combination(batch, [0.7, -0.2, 0.4]))
    for name, array in base.items():
        delta = 0.7 * taus[0][name] - 0.2 * taus[1][name] + 0.4 * taus[2][name]
        want = array + delta
        np.testing.assert_allclose(got[name], want, atol=2e-5 * np.abs(want).max())


def test_nothing_is_kept_where_nothing_was_cut_off(make):
    base = make.base()
    keep = BasisSettings(residual="keep")
    basis = compute_basis(base, make.experts("lora", base), keep)
    assert basis.residuals == {}


@KINDS
def test_an_experts_own_weights(make, kind):
    base = make.base()
    experts = make.experts(kind, base)
    for expert, tau in zip(experts, make.dense_taus(base, experts), strict=True):
        own = ExpertWeights(base, expert)
        assert list(own) == list(base)
        for name, array in own.items():
            want = base[name] + tau[name]
            np.testing.assert_allclose(array, want, rtol=1e-5, atol=1e-6)
            assert array.dtype == base[name].dtype
        untouched = own["untouched.weight"]
        np.testing.assert_array_equal(untouched, base["untouched.weight"])


@KINDS
@FORMS
def test_similarity_is_the_mean_cosine_of_singular_values(make, kind, form):
    base = make.base()
    experts = make.experts(kind, base)
    taus = make.dense_taus(base, experts)
    for rank in ("full", 1):  # a lower rank of the basis changes no expert
        basis = compute_basis(base, experts, BasisSettings(rank=rank))
        got = similarities(in_form(basis, form))
        assert [(row.first, row.second) for row in got] == [
            ("0", "1"), ("0", "2"), ("1", "2")
        ]  # fmt: skip
        for row in got:
            cosines = []
            for name, array in base.items():
                if array.ndim != 2:
                    continue
                one, two = (
                    np.linalg.svd(taus[int(k)][name], compute_uv=False) for k in row[:2]
                )
                if one.any() or two.any():
                    norms = np.linalg.norm(one) * np.linalg.norm(two)
                    cosines.append(one @ two / norms if norms else 0.0)
            assert row.cosine == pytest.approx(np.mean(cosines), abs=1e-6)


def shapes_and_layout(basis):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), basis)
    return shapes, basis.layout, basis.expert_names


@KINDS
@pytest.mark.parametrize(
    ("rank", "residual"), [("full", "drop"), (2, "drop"), (2, "keep")]
)
def test_shapes_are_known_before_the_basis(make, kind, rank, residual):
    base = make.base()
    experts, names = make.experts(kind, base), ("a", "b", "c")
    for weights in (base, *(getattr(e, "weights", {}) for e in experts)):
        # That no expert changes it is only known from its values.
        weights.pop("untouched.weight", None)
    settings = BasisSettings(rank=rank, residual=residual)
    real = compute_basis(base, experts, settings, expert_names=names)
    planned = basis_shapes(
        {name: array.shape for name, array in base.items()},
        experts,
        settings,
        expert_names=names,
    )
    assert shapes_and_layout(planned) == shapes_and_layout(real)
    assert shapes_and_layout(core_shapes(planned)) == shapes_and_layout(
        core_basis(real)
    )


def test_an_unknown_expert_may_change_everything():
    shapes = {"norm": (4,), "w": (4, 6)}
    planned = basis_shapes(shapes, [None, None], expert_names=("a", "b"))
    assert {name: array.shape for name, array in planned.u.items()} == {"w": (4, 8)}
    assert {n: array.shape for n, array in planned.deltas.items()} == {"norm": (2, 4)}
