"""Residuals, energy, similarity and the kept basis."""

import jax
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging import basis_cache
from cycleqd_jax.merging import genome as genomes
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.basis_store import load_basis, save_basis, stored_fingerprint
from cycleqd_jax.merging.core_basis import CoreBasis, core_basis
from cycleqd_jax.merging.facts import similarities
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.modes import choose_mode
from cycleqd_jax.merging.task_vectors import expert_weights

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
    basis = in_form(compute_basis(base, experts, rank, residual="keep"), form)
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
    basis = compute_basis(base, make.experts("lora", base), residual="keep")
    assert basis.residuals == {}
    with pytest.raises(BadInputError, match='residual: expected "drop" or "keep"'):
        compute_basis(base, make.experts("lora", base), residual="both")


@KINDS
def test_an_experts_own_weights(make, kind):
    base = make.base()
    experts = make.experts(kind, base)
    for expert, tau in zip(experts, make.dense_taus(base, experts), strict=True):
        own = expert_weights(base, expert)
        assert list(own) == list(base)
        for name, array in own.items():
            want = base[name] + tau[name]
            np.testing.assert_allclose(array, want, rtol=1e-5, atol=1e-6)
            assert array.dtype == base[name].dtype


@KINDS
@FORMS
def test_similarity_is_the_mean_cosine_of_singular_values(make, kind, form):
    base = make.base()
    experts = make.experts(kind, base)
    taus = make.dense_taus(base, experts)
    for rank in ("full", 1):  # a lower rank of the basis changes no expert
        got = similarities(in_form(compute_basis(base, experts, rank), form))
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


@FORMS
@pytest.mark.parametrize("residual", ["drop", "keep"])
def test_files_hold_both_forms(make, tmp_path, form, residual):
    base = make.base()
    basis = compute_basis(base, make.experts("full", base), 2, residual=residual)
    basis = in_form(basis, form)
    path = tmp_path / "basis.safetensors"
    save_basis(path, basis, fingerprint="abc")
    read = load_basis(path).basis
    assert isinstance(read, CoreBasis) == (form == "core")
    assert jax.tree.structure(read) == jax.tree.structure(basis)
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(basis), strict=True):
        np.testing.assert_array_equal(a, b)
    assert stored_fingerprint(path) == "abc"


def test_a_kept_basis_is_found_linked_and_survives_damage(make, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = make.base()
    basis = compute_basis(base, make.experts("lora", base))
    assert basis_cache.find_basis("f" * 64) is None
    assert basis_cache.keep_basis(basis, "f" * 64, {"rank": "full"})
    found = basis_cache.find_basis("f" * 64)
    np.testing.assert_array_equal(found.singular_values, basis.singular_values)
    target = tmp_path / "run.safetensors"
    assert basis_cache.link_basis("f" * 64, target)
    kept = basis_cache.cached_basis_path("f" * 64)
    assert target.stat().st_ino == kept.stat().st_ino
    kept.unlink()
    kept.write_bytes(b"damaged")
    assert basis_cache.find_basis("f" * 64) is None
    assert load_basis(target).fingerprint == "f" * 64  # the link is not the damaged one
    assert not basis_cache.link_basis("0" * 64, target)


def test_a_basis_that_cannot_be_kept_stops_nothing(make, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    base = make.base()
    basis = compute_basis(base, make.experts("lora", base))
    assert not basis_cache.keep_basis(basis, "f" * 64, {})


def test_dense_individuals_are_materialised(make):
    base = make.base()
    experts = make.experts("full", base)
    cut = compute_basis(base, experts, 1, residual="keep")
    plain = compute_basis(base, experts, 1)
    for basis, noise, reason in [
        (core_basis(plain), False, "core form"),
        (cut, False, "residuals"),
        (plain, True, "noise"),
    ]:
        choice = choose_mode("auto", base, basis, noise=noise)
        assert choice.mode == "materialised" and reason in choice.reason
        with pytest.raises(BadInputError, match=f"engine.mode is factored.*{reason}"):
            choose_mode("factored", base, basis, noise=noise)
