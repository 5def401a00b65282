"""Closed forms against their definitions, on whole matrices in dense float64."""

import types

import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.closed_forms import closed_form
from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.settings import BasisSettings

FACTOR = 0.7


def dense_tsv_m(taus):
    """Gargiulo et al. (arXiv 2412.00081), with the SVDs of the whole matrices."""
    count, keep = len(taus), min(taus[0].shape) // len(taus)
    parts = [np.linalg.svd(tau, full_matrices=False) for tau in taus]
    ranks = [min(keep, np.linalg.matrix_rank(tau)) for tau in taus]
    u = np.hstack([p[0][:, :r] for p, r in zip(parts, ranks, strict=True)])
    s = np.hstack([p[1][:r] for p, r in zip(parts, ranks, strict=True)])
    v = np.hstack([p[2][:r].T for p, r in zip(parts, ranks, strict=True)])
    assert u.shape[1] == sum(ranks) and count > 1
    return whitened(u) @ np.diag(s) @ whitened(v).T


def whitened(x):
    """`X (X^T X)^-1/2`; the pseudo-inverse where columns depend on each other."""
    values, vectors = np.linalg.eigh(x.T @ x)
    good = values > 1e-9 * values.max()
    return x @ (vectors[:, good] / np.sqrt(values[good])) @ vectors[:, good].T


def dense_iso_c(taus):
    """Marczak et al. (arXiv 2502.04959); the mean over the rank of the sum."""
    total = sum(taus)
    u, s, vt = np.linalg.svd(total, full_matrices=False)
    rank = np.linalg.matrix_rank(total)
    return np.mean(s[:rank]) * u[:, :rank] @ vt[:rank]


DENSE = {"tsv_m": dense_tsv_m, "iso_c": dense_iso_c}


def check(base, basis, taus, name):
    """Every parameter of the merge, to 1e-5 of the largest change of it."""
    merged = materialise(base, basis, closed_form(name, basis, FACTOR))
    for parameter, w in base.items():
        own = [tau[parameter] for tau in taus]
        if not any(map(np.any, own)):
            assert merged[parameter] is w
            continue
        mean = sum(own) / len(own)
        want = FACTOR * (DENSE[name](own) if w.ndim == 2 else mean)
        got = np.asarray(merged[parameter], np.float64) - w
        # The weights themselves are float32, so a change has their rounding.
        limit = 1e-5 * np.abs(want).max() + 2e-7 * np.abs(w).max()
        np.testing.assert_allclose(got, want, atol=limit, rtol=0, err_msg=parameter)


@pytest.mark.parametrize("name", list(DENSE))
@pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
@pytest.mark.parametrize("seed", range(2))
def test_equals_its_dense_definition(make, name, kind, seed):
    base = make.base(seed)
    experts = make.experts(kind, base, seed)
    taus = make.dense_taus(base, experts)
    check(base, core_basis(compute_basis(base, experts)), taus, name)


def lora(rng, b, a, scale=1.0):
    factor = types.SimpleNamespace(b=b, a=a, scale=scale)
    return types.SimpleNamespace(factors={"w": factor})


@pytest.mark.parametrize("name", list(DENSE))
@pytest.mark.parametrize("shared", ["none", "inputs", "a direction"])
def test_loras_that_share_directions(name, shared):
    """All with one A, as from one seed; or one direction that two of them have."""
    rng = np.random.default_rng(11)
    base = {"w": np.zeros((40, 24), np.float32)}
    a = rng.standard_normal((3, 3, 24)).astype(np.float32)
    b = rng.standard_normal((3, 40, 3)).astype(np.float32)
    if shared == "inputs":
        a[:] = a[0]
    if shared == "a direction":
        a[1, 1:] = a[0, 1:] = 0
        b[1, :, 0], a[1, 0] = b[0, :, 0], a[0, 0]
    experts = [lora(rng, b[k], a[k], scale=2.0) for k in range(3)]
    taus = [{"w": 2.0 * b[k].astype(float) @ a[k].astype(float)} for k in range(3)]
    check(base, core_basis(compute_basis(base, experts)), taus, name)


def test_an_expert_alone_keeps_its_task_vector(make):
    """One expert has nothing to be decorrelated from."""
    base = make.base()
    [expert] = make.experts("lora", base)[:1]
    basis = core_basis(compute_basis(base, [expert]))
    np.testing.assert_allclose(
        closed_form("tsv_m", basis).coefficients, basis.experts[0], rtol=0, atol=1e-5
    )


def test_orthogonal_experts_are_added(make):
    """Nothing interferes, so TSV-M is the sum of the task vectors."""
    rng = np.random.default_rng(2)
    left, _ = np.linalg.qr(rng.standard_normal((20, 6)))
    right, _ = np.linalg.qr(rng.standard_normal((15, 6)))
    base = {"w": np.zeros((20, 15), np.float32)}
    parts = [slice(2 * k, 2 * k + 2) for k in range(3)]
    experts = [lora(rng, left[:, p], right[:, p].T, 1.0 + p.start) for p in parts]
    basis = core_basis(compute_basis(base, experts))
    np.testing.assert_allclose(
        closed_form("tsv_m", basis, 0.5).coefficients,
        closed_form("sum", basis, 0.5).coefficients,
        atol=1e-5,
    )


def test_sum_and_uniform_are_the_same_in_both_forms(make):
    base = make.base()
    experts = make.experts("mixed", base)
    diagonal = compute_basis(base, experts)
    taus = make.dense_taus(base, experts)
    for basis in (diagonal, core_basis(diagonal)):
        for name, share in (("sum", 1.0), ("uniform", 1 / 3)):
            genome = closed_form(name, basis, 0.5)
            assert genome.coefficients.dtype == genome.scales.dtype == np.float32
            merged = materialise(base, basis, genome)
            for parameter, w in base.items():
                want = w + 0.5 * share * sum(tau[parameter] for tau in taus)
                np.testing.assert_allclose(merged[parameter], want, atol=1e-5)


def test_what_cannot_be_merged_is_refused(make):
    base = make.base()
    experts = make.experts("full", base)
    diagonal = compute_basis(base, experts)
    with pytest.raises(ValueError, match="expected a CoreBasis for tsv_m"):
        closed_form("tsv_m", diagonal)
    with pytest.raises(ValueError, match="expected sum, uniform, tsv_m, iso_c"):
        closed_form("tsv", diagonal)
    settings = BasisSettings(rank=2, residual="keep")
    kept = core_basis(compute_basis(base, experts, settings))
    with pytest.raises(BadInputError, match=r"basis.residual: iso_c .* to drop"):
        closed_form("iso_c", kept)
    assert closed_form("sum", kept).scales.tolist() == [1.0] * 3
