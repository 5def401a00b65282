"""Kernels with four dimensions, against their dense definition in float64."""

import types

import jax
import numpy as np
import pytest

from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.forms import basis_shapes
from cycleqd_jax.merging.genome import Genome, expert_genome
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.merging.materialise import materialise, split_coefficients
from cycleqd_jax.merging.recipes import MergedWeights
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.models.base import matrix_shape

SHAPES = {
    "bias": (5,),
    "neck.weight": (5, 3, 2, 2),  # as a matrix [5, 12]
    "patches.weight": (20, 2, 3, 3),  # [20, 18]
    "pos_embed": (1, 3, 4, 6),  # no kernel: a table
    "proj.weight": (7, 5),
    "upscale.weight": (6, 4, 2, 2),  # transposed, stored [in, out, h, w]: [6, 16]
}
MATRICES = {
    "neck.weight": (5, 12),
    "patches.weight": (20, 18),
    "proj.weight": (7, 5),
    "upscale.weight": (6, 16),
}


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)

    def draw(scale):
        return {n: scale * rng.standard_normal(s) for n, s in SHAPES.items()}

    base = draw(1.0)
    tuned = [{n: base[n] + d for n, d in draw(0.3).items()} for _ in range(3)]
    base, *tuned = (
        {name: a.astype(np.float32) for name, a in one.items()}
        for one in (base, *tuned)
    )
    taus = [{n: e[n].astype(np.float64) - base[n] for n in SHAPES} for e in tuned]
    return base, [types.SimpleNamespace(weights=one) for one in tuned], taus


def close(got, want, tolerance=1e-5):
    assert np.shape(got) == np.shape(want)
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def test_which_parameters_are_matrices():
    shapes = {name: matrix_shape(shape) for name, shape in SHAPES.items()}
    assert shapes == {"bias": None, "pos_embed": None} | MATRICES


@pytest.mark.parametrize("host_below", [1024, 1])  # on the host, on the accelerator
def test_directions_are_those_of_the_flattened_kernel(world, host_below):
    base, experts, taus = world
    basis = compute_basis(base, experts, BasisSettings(host_below=host_below))
    assert {slot.name for slot in basis.layout} == MATRICES.keys()
    assert basis.deltas.keys() == {"bias", "pos_embed"}
    tolerance = 1e-5 if host_below > 1 else 1e-4
    for slot in basis.layout:
        assert basis.u[slot.name].shape == (MATRICES[slot.name][0], slot.size)
        assert basis.v[slot.name].shape == (MATRICES[slot.name][1], slot.size)
        own = basis.singular_values[slot.offset : slot.offset + slot.size]
        for k, tau in enumerate(taus):
            flat = tau[slot.name].reshape(MATRICES[slot.name])
            want = np.linalg.svd(flat, compute_uv=False)
            close(own[slot.columns(k)], want, tolerance)


@pytest.mark.parametrize("form", ["diagonal", "core"])
def test_any_genome_is_its_dense_sum(world, form):
    base, experts, taus = world
    diagonal = compute_basis(base, experts)
    rng = np.random.default_rng(1)
    mix = rng.standard_normal(3)
    # One number per direction for the diagonal form; one per expert, the crossover of
    # experts, for cores.
    basis = diagonal if form == "diagonal" else core_basis(diagonal)
    if form == "diagonal":
        stretch = rng.uniform(0, 2, diagonal.genome_size)
        coefficients = stretch * np.asarray(diagonal.singular_values, np.float64)
    else:
        own = [expert_genome(basis, k).coefficients for k in range(3)]
        coefficients = mix @ np.asarray(own, np.float64)
    genome = Genome(coefficients.astype(np.float32), mix.astype(np.float32))
    weights = materialise(
        {n: jax.numpy.asarray(a) for n, a in base.items()}, basis, genome
    )
    stretches = {}
    if form == "diagonal":
        split = split_coefficients(diagonal, Genome(stretch, mix))
        stretches = {name: own.reshape(3, -1) for name, own in split.items()}
    for name in SHAPES:
        want = base[name].astype(np.float64)
        for k, tau in enumerate(taus):
            part = mix[k] * tau[name]
            if name in stretches:
                flat = tau[name].reshape(MATRICES[name])
                u, s, vt = np.linalg.svd(flat, full_matrices=False)
                part = ((u * stretches[name][k] * s) @ vt).reshape(SHAPES[name])
            want = want + part
        close(weights[name], want)


@pytest.mark.parametrize("residual", ["keep", "drop"])
def test_what_a_low_rank_leaves_is_kept_or_dropped(world, residual):
    base, experts, taus = world
    basis = compute_basis(base, experts, BasisSettings(rank=2, residual=residual))
    placed = {n: jax.numpy.asarray(a) for n, a in base.items()}
    weights = materialise(placed, basis, expert_genome(basis, 1))
    for name, shape in MATRICES.items():
        want = experts[1].weights[name].astype(np.float64)
        if residual == "drop":
            u, s, vt = np.linalg.svd(taus[1][name].reshape(shape), full_matrices=False)
            cut = (u[:, :2] * s[:2]) @ vt[:2]
            want = base[name] + cut.reshape(SHAPES[name])
        close(weights[name], want)


@pytest.mark.parametrize("settings", [{}, {"rank": 2, "residual": "keep"}])
def test_the_memory_plan_knows_the_shapes(world, settings):
    base, experts, _ = world
    settings = BasisSettings(**settings)
    names = ["a", "b", "c"]
    got = basis_shapes(SHAPES, experts, settings, expert_names=names)
    want = compute_basis(base, experts, settings, expert_names=names)
    assert got.layout == want.layout
    shapes = [jax.tree.map(lambda leaf: leaf.shape, one) for one in (got, want)]
    assert shapes[0] == shapes[1]


def test_conditioning_leaves_kernels_as_they_are(world):
    base, experts, _ = world
    plain = compute_basis(base, experts)
    basis = compute_basis(base, experts, BasisSettings(conditioning="data_free"))
    for slot, other in zip(basis.layout, plain.layout, strict=True):
        same = np.array_equal(basis.v[slot.name], plain.v[other.name])
        assert same == (slot.name != "proj.weight")


def test_element_wise_merges_have_the_shapes_of_the_base(world):
    base, experts, _ = world
    recipe = Recipe(method="ties", density=0.5, factor=1.0, seed=0)
    merged = MergedWeights(base, dict(zip("abc", experts, strict=True)), recipe)
    assert {name: array.shape for name, array in merged.items()} == SHAPES
