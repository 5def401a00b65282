import types

import jax
import numpy as np
import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging import basis_store
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.basis_store import basis_fingerprint, load_basis, save_basis


def test_round_trip_and_equal_bytes(make, tmp_path):
    base = make.base()
    basis = compute_basis(base, make.experts("mixed", base), 2, expert_names="abc")
    for name in ("one", "two"):
        save_basis(tmp_path / name, basis, fingerprint="f", settings={"rank": 2})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    stored = load_basis(tmp_path / "one")
    assert stored.fingerprint == "f" and stored.settings == {"rank": 2}
    assert stored.basis.layout == basis.layout
    assert jax.tree.structure(stored.basis) == jax.tree.structure(basis)
    for got, want in zip(
        jax.tree.leaves(stored.basis), jax.tree.leaves(basis), strict=True
    ):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_damaged_and_foreign_files_are_refused(make, tmp_path):
    base = make.base()
    path = tmp_path / "basis.safetensors"
    with pytest.raises(BadInputError, match="no file"):
        load_basis(path)
    save_basis(path, compute_basis(base, make.experts("lora", base)), fingerprint="f")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BadInputError, match="damaged"):
        load_basis(path)


def test_files_of_another_format_are_refused(make, tmp_path, monkeypatch):
    """Format 2 stored directions as `[out, K, r]`."""
    base = make.base()
    path = tmp_path / "basis.safetensors"
    basis = compute_basis(base, make.experts("lora", base))
    with monkeypatch.context() as patch:
        patch.setattr(basis_store, "_FORMAT", "cycleqd_jax/basis/2")
        save_basis(path, basis, fingerprint="f")
    with pytest.raises(BadInputError, match="format 'cycleqd_jax/basis/2'.*another"):
        load_basis(path)


def test_fingerprint_depends_on_inputs_and_settings_only(make):
    base = make.base()
    experts = make.experts("mixed", base)

    def fingerprint(base=base, experts=experts, names=("a", "b", "c"), rank="full"):
        return basis_fingerprint(base, experts, names, rank=rank)

    same = fingerprint()
    reordered = dict(reversed(base.items()))
    on_device = {name: jax.numpy.asarray(w) for name, w in base.items()}
    assert same == fingerprint(base=reordered) == fingerprint(base=on_device)
    name, factor = next(iter(experts[0].factors.items()))
    scaled = types.SimpleNamespace(b=factor.b, a=factor.a, scale=1.0)
    other = types.SimpleNamespace(factors={**experts[0].factors, name: scaled})
    norm = {"model.norm.weight": base["model.norm.weight"] * 2}
    replacing = types.SimpleNamespace(factors=experts[0].factors, replacements=norm)
    changed = {**base, "model.norm.weight": base["model.norm.weight"] * 2}
    different = {
        fingerprint(rank=4),
        fingerprint(names=("a", "c", "b")),
        fingerprint(experts=experts[::-1]),
        fingerprint(experts=[other, *experts[1:]]),
        fingerprint(experts=[replacing, *experts[1:]]),
        fingerprint(base=changed),
    }
    assert len(different | {same}) == 7
