import errno

import jax
import numpy as np
import pytest
import safetensors.numpy

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging import basis_cache, basis_store
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.basis_cache import BasisKey, kept_path, obtain_basis
from cycleqd_jax.merging.basis_store import (
    basis_fingerprint,
    check_basis,
    load_basis,
    save_basis,
    store_basis,
    stored_fingerprint,
)
from cycleqd_jax.merging.core_basis import CoreBasis, core_basis
from cycleqd_jax.merging.settings import BasisSettings

EMBED = "model.embed_tokens.weight"


def test_round_trip_and_equal_bytes(make, tmp_path):
    base = make.base()
    experts, settings = make.experts("mixed", base), BasisSettings(rank=2)
    basis = compute_basis(base, experts, settings, expert_names="abc")
    for name in ("one", "two"):
        save_basis(tmp_path / name, basis, fingerprint="f")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    stored = load_basis(tmp_path / "one")
    assert stored.fingerprint == stored_fingerprint(tmp_path / "one") == "f"
    assert stored.basis.layout == basis.layout
    assert jax.tree.structure(stored.basis) == jax.tree.structure(basis)
    for got, want in zip(
        jax.tree.leaves(stored.basis), jax.tree.leaves(basis), strict=True
    ):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_the_file_is_the_librarys(make, tmp_path):
    base, path = make.base(), tmp_path / "basis.safetensors"
    for dtype in ("float32", "bfloat16"):
        experts = make.experts("mixed", base)
        basis = compute_basis(base, experts, BasisSettings(rank=2), dtype=dtype)
        save_basis(path, basis, fingerprint="f")
        arrays = safetensors.numpy.load_file(path)
        np.testing.assert_array_equal(arrays[f"u/{EMBED}"], basis.u[EMBED])
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata()
        safetensors.numpy.save_file(arrays, tmp_path / "theirs", metadata)
        assert path.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_damaged_and_foreign_files_are_refused(make, tmp_path):
    base = make.base()
    path = tmp_path / "basis.safetensors"
    with pytest.raises(BadInputError, match="no file"):
        load_basis(path)
    save_basis(path, compute_basis(base, make.experts("lora", base)), fingerprint="f")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BadInputError, match="damaged"):
        load_basis(path)
    path.write_bytes(b"")
    with pytest.raises(BadInputError, match="damaged"):
        check_basis(path)


def test_files_of_another_format_are_refused(make, tmp_path, monkeypatch):
    """Format 2 stored directions as `[out, K, r]`."""
    base = make.base()
    path = tmp_path / "basis.safetensors"
    basis = compute_basis(base, make.experts("lora", base))
    with monkeypatch.context() as patch:
        patch.setattr(basis_store, "_FORMAT", "cycleqd_jax/basis/2")
        save_basis(path, basis, fingerprint="f")
    with pytest.raises(BadInputError, match=r"has format '\S*/2'.*reads '\S*/3'"):
        load_basis(path)


def test_fingerprint_depends_on_inputs_and_settings():
    def fingerprint(
        base="0", experts=("1", "2", "3"), names="abc", form="diagonal", **settings
    ):
        prints = dict(zip(names, experts, strict=True))
        dtype = settings.pop("dtype", "float32")
        settings = BasisSettings(**settings)
        return basis_fingerprint(base, prints, settings, form, dtype=dtype)

    same = fingerprint()
    assert same == fingerprint(keep=False) and len(same) == 64
    different = {
        fingerprint(base="4"),
        fingerprint(experts=("1", "2", "4")),
        fingerprint(experts=("3", "2", "1")),
        fingerprint(names="acb"),
        fingerprint(names="cba", experts=("3", "2", "1")),  # another order of archives
        fingerprint(rank=4),
        fingerprint(residual="keep"),
        fingerprint(form="core"),
        fingerprint(dtype="bfloat16"),
        fingerprint(host_below=64),
    }
    assert len(different | {same}) == 11


def test_fingerprints_of_older_bases_stay():
    """A basis takes hours to compute; a new setting must not hide it."""
    prints = {"a": "1", "b": "2"}
    assert basis_fingerprint("0", prints, BasisSettings(rank=4)) == (
        "4d7315de950a474e2985cf90ff086c7e51fa164997965122f4461d7dea08a051"
    )


@pytest.mark.parametrize("form", ["diagonal", "core"])
@pytest.mark.parametrize("residual", ["drop", "keep"])
def test_files_hold_both_forms(make, tmp_path, form, residual):
    base = make.base()
    settings = BasisSettings(rank=2, residual=residual)
    basis = compute_basis(base, make.experts("full", base), settings)
    basis = core_basis(basis) if form == "core" else basis
    path = tmp_path / "basis.safetensors"
    save_basis(path, basis, fingerprint="abc")
    read = load_basis(path).basis
    assert isinstance(read, CoreBasis) == (form == "core")
    assert jax.tree.structure(read) == jax.tree.structure(basis)
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(basis), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def computed(make, tmp_path, monkeypatch):
    """A function that computes a basis and counts its calls; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = make.base()

    def compute():
        compute.calls += 1
        return compute_basis(base, make.experts("lora", base))

    compute.calls = 0
    return compute


PRINT = "f" * 64
KEY, OTHER = BasisKey.known(PRINT), BasisKey.known("0" * 64)


def test_a_kept_basis_is_computed_once(computed):
    first = obtain_basis(KEY, computed, keep=False)
    assert not kept_path(PRINT).exists()
    for _ in range(2):
        again = obtain_basis(KEY, computed)
        np.testing.assert_array_equal(again.singular_values, first.singular_values)
    assert computed.calls == 2  # one that was not kept, one that was
    obtain_basis(OTHER, computed)
    obtain_basis(KEY, computed, keep=False)
    assert computed.calls == 4


def test_the_basis_of_a_run_folder_is_used(computed, tmp_path):
    """A basis of other inputs is passed over and replaced."""
    file = tmp_path / "basis.safetensors"
    for fingerprint, calls in ((PRINT, 1), (PRINT, 1), ("0" * 64, 2)):
        key = BasisKey.known(fingerprint)
        basis = obtain_basis(key, computed, file=file, keep=False)
        store_basis(file, basis, fingerprint=fingerprint)
        assert computed.calls == calls and stored_fingerprint(file) == fingerprint


def test_damage_to_the_cache_does_not_reach_a_run_folder(computed, tmp_path):
    file, kept = tmp_path / "basis.safetensors", kept_path(PRINT)
    basis = obtain_basis(KEY, computed)
    store_basis(file, basis, fingerprint=PRINT)
    assert file.read_bytes() == kept.read_bytes()
    assert file.stat().st_ino != kept.stat().st_ino
    with open(kept, "r+b") as damaged:  # in place, which a link would not survive
        damaged.truncate(100)
    assert load_basis(file).fingerprint == PRINT
    obtain_basis(KEY, computed, file=file)
    assert computed.calls == 1
    obtain_basis(KEY, computed)  # the damaged copy is made again
    assert computed.calls == 2 and load_basis(kept).fingerprint == PRINT
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [file.name]


def test_damage_that_cannot_be_removed_does_not_reach_a_run_folder(
    computed, tmp_path, monkeypatch
):
    """As where the cache can be read only."""
    obtain_basis(KEY, computed)
    with open(kept_path(PRINT), "r+b") as damaged:
        damaged.truncate(100)
    refuse = OSError(errno.EROFS, "Read-only file system")
    with monkeypatch.context() as patch:
        patch.setattr(basis_cache, "_keep", lambda *_: None)
        fail = lambda _: (_ for _ in ()).throw(refuse)  # noqa: E731
        patch.setattr(basis_cache.Path, "unlink", fail)
        basis = obtain_basis(KEY, computed)
    assert computed.calls == 2
    file = tmp_path / "basis.safetensors"
    store_basis(file, basis, fingerprint=PRINT)
    assert load_basis(file).fingerprint == PRINT


@pytest.mark.parametrize("failure", ["no folder", "full disk", "in its place"])
def test_a_basis_that_cannot_be_kept_stops_nothing(
    computed, tmp_path, monkeypatch, failure
):
    if failure == "no folder":
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    elif failure == "in its place":
        kept_path(PRINT).mkdir(parents=True)
    else:
        full = OSError(errno.ENOSPC, "No space left on device")
        fail = lambda *args, **kwargs: (_ for _ in ()).throw(full)  # noqa: E731
        monkeypatch.setattr(basis_store, "write_tensors", fail)
    assert obtain_basis(KEY, computed).num_experts == 3
    assert not kept_path(PRINT).is_file()
