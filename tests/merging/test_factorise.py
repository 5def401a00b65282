"""The basis with its work on the disk: killed, resumed, out of room, made twice."""

import errno
import fcntl
import types

import jax
import numpy as np
import pytest

from cycleqd_jax.errors import RunError
from cycleqd_jax.merging import basis_cache, factorise
from cycleqd_jax.merging.basis import compute_basis, conditioned_task_vectors
from cycleqd_jax.merging.basis_store import load_basis, open_basis
from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.facts import expert_energy_kept
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.models.formats.tensor_file import StoredArray

NAMES = ("a", "b", "c")
CONDITIONS = pytest.mark.parametrize("conditioning", ["none", "data_free", "regmean"])


@pytest.fixture
def world(make):
    """Counts how often each expert's arrays are read."""

    class Counted(dict):
        def __getitem__(self, name):
            world.reads += 1
            return super().__getitem__(name)

    base = make.base()
    experts = make.experts("full", base)
    rng = np.random.default_rng(0)
    grams = []
    for name, array in base.items():
        if "layers" in name:
            x = rng.standard_normal((3, 40, array.shape[1]))
            grams.append({name: [one.T @ one / 40 for one in x]})

    def rows(settings):
        counted = [types.SimpleNamespace(weights=Counted(e.weights)) for e in experts]
        return conditioned_task_vectors(base, counted, settings, NAMES, iter(grams))

    def whole(settings, dtype="float32"):
        return compute_basis(
            base, experts, settings, expert_names=NAMES, layers=grams, dtype=dtype
        )

    world = types.SimpleNamespace(rows=rows, whole=whole, reads=0)
    return world


def same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a = np.asarray(a)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@CONDITIONS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_basis_that_is_made_in_memory(world, tmp_path, conditioning, dtype):
    settings = BasisSettings(conditioning=conditioning, rank=2, residual="keep")
    got = factorise.factorise(tmp_path, world.rows(settings), NAMES, settings, dtype)
    assert all(isinstance(array, StoredArray) for array in got.u.values())
    want = world.whole(settings, dtype)
    same(got, want)
    same(core_basis(got), core_basis(want))


@CONDITIONS
@pytest.mark.parametrize("host_below", [1, 1024])
def test_it_goes_on_where_it_was_killed(
    world, tmp_path, monkeypatch, conditioning, host_below
):
    settings = BasisSettings(conditioning=conditioning, host_below=host_below)
    want = factorise.factorise(
        tmp_path / "whole", world.rows(settings), NAMES, settings
    )
    once, world.reads = world.reads, 0
    write, left = factorise.write_tensors, 2

    def dying(path, *content):
        nonlocal left
        path.write_bytes(b"half")
        if not left:
            raise KeyboardInterrupt
        left -= 1
        write(path, *content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(factorise, "write_tensors", dying)
        factorise.factorise(tmp_path / "cut", world.rows(settings), NAMES, settings)
    world.reads = 0
    progress = []
    got = factorise.factorise(
        tmp_path / "cut", world.rows(settings), NAMES, settings, "float32",
        progress.append,
    )  # fmt: skip
    same(got, jax.tree.map(np.asarray, want))
    assert world.reads < once and progress[-1] == 5
    assert progress == sorted(progress)
    world.reads = 0
    factorise.factorise(tmp_path / "cut", world.rows(settings), NAMES, settings)
    assert world.reads == 0


def test_a_damaged_part_is_made_again(world, tmp_path):
    settings = BasisSettings()
    factorise.factorise(tmp_path, world.rows(settings), NAMES, settings)
    part = max(tmp_path.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    part.write_bytes(part.read_bytes()[:-1])
    got = factorise.factorise(tmp_path, world.rows(settings), NAMES, settings)
    same(got, world.whole(settings))


def test_a_full_disk_keeps_what_is_done(world, tmp_path, monkeypatch):
    settings = BasisSettings()
    write, left = factorise.write_tensors, 2

    def filling(path, *content):
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= 1
        write(path, *content)

    with monkeypatch.context() as patch:
        patch.setattr(factorise, "write_tensors", filling)
        with pytest.raises(RunError, match="make room on that disk"):
            factorise.factorise(tmp_path, world.rows(settings), NAMES, settings)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    same(
        factorise.factorise(tmp_path, world.rows(settings), NAMES, settings),
        world.whole(settings),
    )


def test_two_processes_do_not_make_one_basis(world, tmp_path):
    settings = BasisSettings()
    with open(tmp_path / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process is working in"):
            factorise.factorise(tmp_path, world.rows(settings), NAMES, settings)


def test_a_large_basis_is_kept_without_being_in_memory(world, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = BasisSettings(rank=2)

    def make(folder):
        return factorise.factorise(folder, world.rows(settings), NAMES, settings)

    placed = []

    def place(group, name, array):
        placed.append(f"{group} {name}")
        return jax.numpy.asarray(array)

    key = basis_cache.BasisKey.known("f" * 64)
    basis = basis_cache.obtain_basis(key, None, place=place, factorise=make)
    same(basis, world.whole(settings))
    assert "u model.layers.0.mlp.up_proj.weight" in placed and " energy" in placed
    path = basis_cache.kept_path("f" * 64)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no parts
    assert load_basis(path).fingerprint == "f" * 64
    opened = open_basis(path)
    assert expert_energy_kept(opened) == expert_energy_kept(basis)
    world.reads = 0
    basis_cache.obtain_basis(key, None, factorise=None)
    assert world.reads == 0  # a kept basis needs no expert
