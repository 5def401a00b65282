"""Large task vectors on the accelerator, against dense float64 NumPy."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging import blocks
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.device_svd import batch_svd, is_randomised
from cycleqd_jax.merging.facts import energy_report, similarities
from cycleqd_jax.merging.forms import basis_shapes
from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.merging.materialise import low_rank_factors, materialise
from cycleqd_jax.merging.settings import BasisSettings

UP = "model.layers.0.mlp.up_proj.weight"
LARGE = {"host_below": 1}  # every matrix counts as large


def low_rank_and_noise(rng, shape, noise):
    product = rng.standard_normal((shape[0], 64)) @ rng.standard_normal((64, shape[1]))
    return (product / 8 + noise * rng.standard_normal(shape)).astype(np.float32)


def test_a_random_subspace_is_as_good_as_the_exact_svd():
    """Rank 64 and noise: the error within 1 % of the least, the energy too."""
    rng, shape = np.random.default_rng(0), (384, 336)
    matrices = np.stack([low_rank_and_noise(rng, shape, n) for n in (0.1, 1.0)])
    assert is_randomised(shape, 64)
    got = jax.device_get(batch_svd(matrices, 64, keep_rest=True))
    for i, matrix in enumerate(matrices):
        exact = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        u, v, s = (np.asarray(x[i], np.float64) for x in got[:3])
        lost = np.linalg.norm(matrix - (u * s[:64]) @ v.T)
        assert lost <= 1.01 * np.sqrt(np.sum(exact[64:] ** 2))
        kept = np.sum(s[:64] ** 2)  # measured, not estimated
        assert kept == pytest.approx(np.sum(exact[:64] ** 2), rel=0.01)
        assert np.sum(s**2) == pytest.approx(np.sum(exact**2), rel=1e-5)
        assert s[64] == pytest.approx(lost, rel=1e-3)
        assert np.linalg.norm(got.rest[i]) == pytest.approx(lost, rel=1e-3)
        for side in (u, v):
            np.testing.assert_allclose(side.T @ side, np.eye(64), atol=1e-5)


def test_an_exactly_low_rank_matrix_loses_nothing():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((90, 3)) @ rng.standard_normal((3, 84))
    got = batch_svd(a[None].astype(np.float32), 4)
    assert is_randomised(a.shape, 4) and got.values.shape == (1, 5)
    assert got.values[0, 4] == 0.0


@pytest.mark.parametrize("shape", [(40, 30), (30, 40)])
def test_the_gram_matrix_gives_every_task_vector_back(shape):
    """However small its singular values are: these span seven orders of magnitude."""
    rng = np.random.default_rng(2)
    sizes = np.geomspace(1, 1e-7, min(shape))
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], sizes.size)))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], sizes.size)))
    a = ((left * sizes) @ right.T).astype(np.float32)
    got = jax.device_get(batch_svd(a[None], "full"))
    u, v, s = (np.asarray(x[0], np.float64) for x in got[:3])
    np.testing.assert_allclose((u * s) @ v.T, a, atol=2e-6 * np.abs(a).max())
    np.testing.assert_allclose(s, sizes, atol=3e-4)
    np.testing.assert_allclose(s[:10], sizes[:10], rtol=1e-4)
    assert (np.diff(s) <= 0).all()


@pytest.mark.parametrize("kind", ["full", "mixed"])
@pytest.mark.parametrize("settings", [{}, {"rank": 2}, {"rank": 2, "residual": "keep"}])
@pytest.mark.parametrize("conditioning", ["none", "data_free"])
def test_the_accelerator_finds_the_basis_of_the_host(
    make, kind, settings, conditioning
):
    base = make.base()
    experts = make.experts(kind, base)
    settings = settings | {"conditioning": conditioning}
    want = compute_basis(base, experts, BasisSettings(**settings))
    got = compute_basis(base, experts, BasisSettings(**settings, **LARGE))
    assert got.layout == want.layout
    np.testing.assert_allclose(
        got.singular_values, want.singular_values, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(got.energy, want.energy, rtol=1e-5)
    np.testing.assert_allclose(got.energy_kept, want.energy_kept, rtol=1e-5)
    np.testing.assert_allclose(got.similarity, want.similarity, rtol=1e-4)
    assert bool(energy_report(got)) == bool(energy_report(want))
    for k in range(3):
        one, other = (
            materialise(base, b, expert_genome(b, k), None) for b in (got, want)
        )
        for name, weight in other.items():
            np.testing.assert_allclose(one[name], weight, atol=2e-5)


def test_similarity_counts_the_energy_beyond_a_random_subspace():
    """As if it were spread alike, so it is never below the exact one."""
    rng = np.random.default_rng(3)
    base = {"w.weight": np.zeros((90, 84), np.float32)}
    tuned = (low_rank_and_noise(rng, (90, 84), noise) for noise in (0.1, 2.0))
    experts = [types.SimpleNamespace(weights={"w.weight": w}) for w in tuned]
    exact = compute_basis(base, experts, BasisSettings(rank=4))
    got = compute_basis(base, experts, BasisSettings(rank=4, **LARGE))
    cosines = [similarities(basis)[0].cosine for basis in (exact, got)]
    assert cosines[0] <= cosines[1] + 1e-6 <= cosines[0] + 0.03
    np.testing.assert_allclose(got.energy_kept, exact.energy_kept, rtol=0.01)


def test_batches_hold_layers_of_one_shape(monkeypatch):
    """Equal results whatever the batch; a batch is as large as there is room."""
    rng = np.random.default_rng(4)
    names = [f"model.layers.{i}.{m}" for i in range(3) for m in ("down", "gate", "up")]
    shapes = {n: (6, 9) if n.endswith("down") else (9, 6) for n in names}
    base = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    experts = [
        types.SimpleNamespace(
            weights={n: w + rng.standard_normal(w.shape) for n, w in base.items()}
        )
        for _ in range(2)
    ]
    sizes, decompose = [], blocks.batch_svd

    def noted(matrices, *options):
        sizes.append(matrices.shape[0])
        return decompose(matrices, *options)

    monkeypatch.setattr(blocks, "batch_svd", noted)
    bases = []
    for room in (9 * 6 * 4, 9 * 6 * 4 * 4, 1 << 28):
        monkeypatch.setattr(blocks, "_BATCH_BYTES", room)
        bases.append(compute_basis(base, experts, BasisSettings(**LARGE)))
    assert sizes == [1] * 18 + [4, 2] + [4, 4, 4] + [6, 12]
    for other in bases[1:]:
        for a, b in zip(jax.tree.leaves(bases[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_an_expert_does_not_change_is_not_decomposed(make):
    base = make.base()
    expert = make.experts("full", base)[0]
    expert.weights[UP] = base[UP] * np.float32(1)
    expert.weights[UP][0, 0] = base[UP][0, 0] = 0.0
    expert.weights[UP][0, 0] = -0.0  # other bytes, but no other number
    basis = compute_basis(base, [expert], BasisSettings(**LARGE))
    assert UP not in basis.u and "untouched.weight" not in basis.u


def test_a_large_task_vector_beyond_float32_is_refused(make):
    base = make.base()
    base[UP] = np.full_like(base[UP], -3e38)
    expert = make.experts("full", base)[0]
    expert.weights[UP] = np.full_like(base[UP], 3e38)
    with pytest.raises(BadInputError, match=f"^db: what it adds to {UP} is beyond"):
        compute_basis(base, [expert], BasisSettings(**LARGE), expert_names=["db"])


@pytest.mark.parametrize("large", [{}, LARGE])
def test_directions_have_the_dtype_of_the_run(make, large):
    base = make.base(dtype=jnp.bfloat16)
    experts = make.experts("full", base)
    settings = BasisSettings(rank=2, residual="keep", **large)
    options = {"expert_names": ("a", "b", "c"), "dtype": "bfloat16"}
    basis = compute_basis(base, experts, settings, **options)
    planned = basis_shapes(
        {n: w.shape for n, w in base.items() if n != "untouched.weight"},
        [None] * 3,
        settings,
        **options,
    )
    dtypes = jax.tree.map(lambda x: (x.shape, x.dtype), basis)
    assert dtypes == jax.tree.map(lambda x: (x.shape, x.dtype), planned)
    assert basis.u[UP].dtype == basis.residuals[UP].dtype == jnp.bfloat16
    assert basis.singular_values.dtype == basis.energy.dtype == np.float32
    genome = expert_genome(basis, 1)
    for name, weight in materialise(base, basis, genome).items():
        want = np.asarray(experts[1].weights[name], np.float32)
        np.testing.assert_allclose(np.asarray(weight, np.float32), want, atol=0.03)
    for b, a in low_rank_factors(basis, genome).values():
        assert b.dtype == a.dtype == np.float32
