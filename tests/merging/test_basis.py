import collections
import types
import weakref
from collections.abc import Mapping

import jax
import numpy as np
import pydantic
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging import basis as basis_module
from cycleqd_jax.merging import blocks, task_vectors
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.facts import energy_report, expert_energy_kept
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.merging.svd import truncated_svd

UP = "model.layers.0.mlp.up_proj.weight"
Q = "model.layers.0.self_attn.q_proj.weight"
EMBED = "model.embed_tokens.weight"


def rebuild(basis, name, k):
    slot = next(s for s in basis.layout if s.name == name)
    s = np.asarray(basis.singular_values[slot.offset : slot.offset + slot.size])
    s = s.reshape(slot.num_experts, slot.rank)[k].astype(np.float64)
    u = np.asarray(basis.u[name], np.float64)[:, slot.columns(k)]
    v = np.asarray(basis.v[name], np.float64)[:, slot.columns(k)]
    return (u * s) @ v.T


@pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
def test_full_rank_basis_rebuilds_every_task_vector(make, kind):
    base = make.base()
    experts = make.experts(kind, base)
    basis = compute_basis(base, experts)
    for k, tau in enumerate(make.dense_taus(base, experts)):
        for slot in basis.layout:
            got = rebuild(basis, slot.name, k)
            want = tau[slot.name]
            np.testing.assert_allclose(got, want, atol=1e-5 * (1 + np.abs(want).max()))
        for name, deltas in basis.deltas.items():
            np.testing.assert_allclose(np.asarray(deltas)[k], tau[name], rtol=1e-6)
    assert energy_report(basis) == []
    assert set(expert_energy_kept(basis).values()) == {1.0}


@pytest.mark.parametrize("kind", ["lora", "full", "mixed"])
def test_components_are_orthonormal_and_sorted(make, kind):
    basis = compute_basis(make.base(), make.experts(kind, make.base()))
    for slot in basis.layout:
        s = np.asarray(basis.singular_values[slot.offset : slot.offset + slot.size])
        for k, row in enumerate(s.reshape(slot.num_experts, slot.rank)):
            assert (np.diff(row) <= 0).all()
            live = row > 0
            for side in (basis.u, basis.v):
                own = np.asarray(side[slot.name], np.float64)[:, slot.columns(k)]
                columns = own[:, live]
                np.testing.assert_allclose(
                    columns.T @ columns, np.eye(live.sum()), atol=1e-6
                )
                if kind == "lora":  # only padding has no singular value there
                    assert not own[:, ~live].any()


def test_layout_and_ranks_of_lora_experts(make):
    base = make.base()
    basis = compute_basis(
        base, make.experts("lora", base), expert_names=["a", "b", "c"]
    )
    assert [(s.name, s.offset, s.rank) for s in basis.layout] == [(UP, 0, 3), (Q, 9, 4)]
    assert basis.genome_size == 9 + 12 == basis.singular_values.size
    owners = [0] * 3 + [1] * 3 + [2] * 3 + [0] * 4 + [1] * 4 + [2] * 4
    assert basis.experts_of.tolist() == owners
    s = np.asarray(basis.singular_values)
    zero_padded = [2, 6, 7, 8, 9, 10, 11, 12, 15, 16]
    assert np.flatnonzero(s == 0).tolist() == zero_padded
    assert basis.deltas == {} and basis.expert_names == ("a", "b", "c")
    assert basis.u[UP].dtype == basis.singular_values.dtype == np.float32
    assert (basis.u[UP].shape, basis.v[UP].shape) == ((10, 9), (6, 9))
    assert basis.experts_of.dtype == np.int32


def test_untouched_parameters_are_not_in_the_basis(make):
    base = make.base()
    basis = compute_basis(base, make.experts("full", base))
    assert set(basis.u) == {UP, Q, EMBED}
    assert set(basis.deltas) == {"model.norm.weight"}


def test_signs_are_deterministic(make):
    base = make.base()
    basis = compute_basis(base, make.experts("full", base))
    for u in basis.u.values():
        columns = np.asarray(u)
        largest = np.abs(columns).argmax(axis=0)
        assert (columns[largest, np.arange(columns.shape[1])] > 0).all()


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_truncated_basis_reports_the_energy_it_keeps(make, rank):
    base = make.base()
    experts = make.experts("full", base)
    basis = compute_basis(base, experts, BasisSettings(rank=rank))
    taus = make.dense_taus(base, experts)
    rows = {(row.name, row.expert): row for row in energy_report(basis)}
    assert len(rows) == 9  # three matrices, three experts
    kept_sum = total_sum = 0.0
    for slot in basis.layout:
        assert slot.rank == rank
        for k in range(3):
            s = np.linalg.svd(taus[k][slot.name], compute_uv=False)
            row = rows[slot.name, str(k)]
            assert row.kept == pytest.approx((s[:rank] ** 2).sum() / (s**2).sum())
            assert row.energy == pytest.approx((taus[k][slot.name] ** 2).sum())
            lost = taus[k][slot.name] - rebuild(basis, slot.name, k)
            assert (lost**2).sum() == pytest.approx((s[rank:] ** 2).sum(), rel=1e-4)
            if k == 0:
                kept_sum += (s[:rank] ** 2).sum()
                total_sum += (s**2).sum()
    assert expert_energy_kept(basis)["0"] == pytest.approx(kept_sum / total_sum)


def test_truncation_beyond_the_own_rank_loses_nothing(make):
    base = make.base()
    basis = compute_basis(base, make.experts("lora", base), BasisSettings(rank=3))
    assert [s.rank for s in basis.layout] == [3, 3]
    lost = [(row.name, row.expert) for row in energy_report(basis)]
    assert lost == [(Q, "2")]  # the only factor of rank 4


@pytest.mark.parametrize(
    "wrong", [{"rank": rank} for rank in (0, -1, 2.0, "all", True)] + [{"residual": ""}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(pydantic.ValidationError, match=next(iter(wrong))):
        BasisSettings(**wrong)


def test_experts_equal_to_the_base_are_refused(make):
    base = make.base()
    same = types.SimpleNamespace(weights=dict(base))
    with pytest.raises(BadInputError, match="nothing to merge"):
        compute_basis(base, [same])
    with pytest.raises(BadInputError, match="at least one expert"):
        compute_basis(base, [])


def test_a_step_between_task_vectors_and_basis_has_its_place(make):
    """Halving every task vector halves the singular values and nothing else."""
    base = make.base()
    experts = make.experts("lora", base)
    rows = basis_module.iterate_task_vectors(base, experts)

    def halved(row):
        factors = (d and type(d)(b=0.5 * d.b, a=d.a) for d in row.deltas)
        return row._replace(deltas=factors)

    got = basis_module.build_basis(map(halved, rows), ["0", "1", "2"])
    want = compute_basis(base, experts)
    np.testing.assert_allclose(got.singular_values, want.singular_values / 2, rtol=1e-6)
    np.testing.assert_allclose(got.u[UP], want.u[UP], atol=1e-6)


class Stored(Mapping):
    """Arrays that are made on access, as if read from disk; counts reads and arrays."""

    live = peak = 0

    def __init__(self, arrays):
        self.arrays = arrays
        self.reads = collections.Counter()

    def __getitem__(self, name):
        self.reads[name] += 1
        array = self.arrays[name].copy()
        Stored.live += 1
        Stored.peak = max(Stored.peak, Stored.live)
        weakref.finalize(array, Stored.let_go)
        return array

    @staticmethod
    def let_go():
        Stored.live -= 1

    def __contains__(self, name):
        return name in self.arrays

    def __iter__(self):
        return iter(self.arrays)

    def __len__(self):
        return len(self.arrays)


@pytest.mark.parametrize("residual", ["drop", "keep"])
def test_one_array_of_one_expert_is_in_memory_at_a_time(make, monkeypatch, residual):
    base = make.base()
    experts = make.experts("full", base)
    settings = BasisSettings(rank=2, residual=residual)
    want = compute_basis(base, experts, settings)
    stored = [types.SimpleNamespace(weights=Stored(e.weights)) for e in experts]
    held = []  # references to task vectors that were decomposed

    def decompose(delta, rank, **options):
        assert all(reference() is None for reference in held)
        held.append(weakref.ref(delta))
        return truncated_svd(delta, rank, **options)

    monkeypatch.setattr(blocks, "truncated_svd", decompose)
    monkeypatch.setattr(Stored, "peak", 0)
    got = compute_basis(base, stored, settings)
    assert Stored.peak == 1 and Stored.live == 0 and len(held) == 9
    for expert in stored:
        assert expert.weights.reads == dict.fromkeys(base, 1)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_as_trained_are_read_one_by_one(make):
    base = make.base()
    (expert, *_) = make.experts("full", base)
    stored = types.SimpleNamespace(weights=Stored(expert.weights))
    own = task_vectors.ExpertWeights(base, stored)
    assert len(own) == len(base) and not stored.weights.reads
    for name in own:
        np.testing.assert_array_equal(own[name], expert.weights[name])
    assert stored.weights.reads == dict.fromkeys(base, 1)


def wide_lora(scale, size=1.0):
    """An adapter of finite factors whose product grows with its scale and size."""
    b, a = np.full((6, 2), size), np.full((2, 6), size)
    b[0, 1] = a[1, 0] = 0.5 * size
    factor = types.SimpleNamespace(b=b, a=a, scale=scale)
    return types.SimpleNamespace(factors={Q: factor})


@pytest.mark.parametrize(
    "expert",
    [
        wide_lora(1e30),  # its energy is beyond float32
        wide_lora(1e200),  # its squares are beyond float64
        wide_lora(1e308, 1e3),  # its scaled factors are
        wide_lora(1.0, 1e160),  # its product is
    ],
)
@pytest.mark.parametrize("conditioning", ["none", "data_free"])
def test_task_vectors_beyond_float32_are_refused(make, expert, conditioning):
    settings = BasisSettings(conditioning=conditioning)
    with pytest.raises(BadInputError, match=f"^db: what it adds to {Q} is beyond"):
        compute_basis(make.base(), [expert], settings, expert_names=["db"])
    compute_basis(make.base(), [wide_lora(1e15)], settings)


@pytest.mark.parametrize("name", [Q, "model.norm.weight"])
def test_full_experts_beyond_float32_are_refused(make, name):
    base = make.base()
    base[name] = np.full_like(base[name], -3e38)
    expert = make.experts("full", base)[0]
    expert.weights[name] = np.full_like(base[name], 3e38)
    with pytest.raises(BadInputError, match=f"^db: what it adds to {name} is beyond"):
        compute_basis(base, [expert], expert_names=["db"])
