"""Full experts are read once for hash and directions, and never for a kept basis."""

import collections
import pathlib
import shutil

import jax
import numpy as np
import pytest
import toy_world

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import RunError
from cycleqd_jax.merging import factorise
from cycleqd_jax.merging.basis_cache import kept_path
from cycleqd_jax.models import experts
from cycleqd_jax.models.experts import FullExpert
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.formats.tensor_file import TensorFile
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs import basis as runs_basis
from cycleqd_jax.runs.basis import BasisJob, obtain
from cycleqd_jax.runs.engines import make_program
from cycleqd_jax.runs.setup import prepare
from cycleqd_jax.runs.tasks import make_tasks

TASKS = ("toy_a", "toy_b")
CONDITIONED = {"conditioning": "regmean"}


class Reads:
    """Counts how often a tensor of a folder is read as a whole.

    Attributes:
      counts: (folder, tensor) -> times.
    """

    def __init__(self):
        self.counts = collections.Counter()

    def of(self, folder, names):
        """The set of the numbers of readings of some tensors of a folder."""
        return {self.counts[folder, name] for name in names}


@pytest.fixture
def reads(monkeypatch):
    reads, read = Reads(), TensorFile.__getitem__

    def noted(self, name):
        reads.counts[pathlib.Path(self.path).parent.name, name] += 1
        return read(self, name)

    monkeypatch.setattr(TensorFile, "__getitem__", noted)
    return reads


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A config, its tasks, the base and its program; files count as old and large."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(experts, "_LARGE", 1)
    monkeypatch.setattr(safetensors, "_SETTLED", -60.0)
    settings = toy_world.make_world(tmp_path, 2, full=TASKS)
    settings["basis"] = {"rank": 4}
    path = toy_world.write_config(tmp_path / "toy.yaml", settings)
    config = load_config(path, [], RunConfig)
    tasks = make_tasks(config.tasks, config.problems, config.task_settings)
    model = load_model(config.base_model)
    return config, tasks, model, make_program(model.config, config.dtype, config.engine)


def open_basis(world):
    """A job and its basis, as a run obtains them."""
    config, tasks, model, program = world
    job = BasisJob.open(config, model, tasks)
    return job, obtain(job, program, {}, Observer())


def same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def change_inside(path):
    """Changes an expert where no sample looks."""
    weights = {n: np.array(a) for n, a in safetensors.open_file(path).items()}
    matrix = weights["model.layers.0.mlp.up_proj.weight"]
    matrix[1 : len(matrix) - 1] *= 1.5
    safetensors.write_file(path, weights)


@pytest.mark.parametrize(
    ("large", "basis"),
    [(True, CONDITIONED), (True, {}), (False, {})],
    ids=["on disk, layer by layer", "on disk", "in memory"],
)
def test_tensors_are_read_once_for_hash_and_directions(
    world, reads, monkeypatch, large, basis
):
    settings = world[0].basis.model_copy(update=basis)
    world = (world[0].model_copy(update={"basis": settings}), *world[1:])
    monkeypatch.setattr(runs_basis, "LARGE", 0 if large else 1 << 60)
    names = world[2].weights.keys()
    job, basis = open_basis(world)
    prints = job.fingerprints
    for task in TASKS:
        assert reads.of(task, names) == {1}
    reads.counts.clear()
    again, found = open_basis(world)
    assert again.fingerprints == prints
    same(found, basis)
    assert not any(reads.of(task, names) != {0} for task in TASKS)


def test_a_run_reads_experts_once_and_with_a_kept_basis_never(world, reads):
    config, _, model, _ = world
    for times in (1, 0):
        reads.counts.clear()
        prepare(config, None, Observer())
        for task in TASKS:
            assert reads.of(task, model.weights) == {times}


def test_a_copy_of_an_expert_finds_the_basis(world, reads, tmp_path, monkeypatch):
    """Its files are others, so they are read for their hash, and nothing is made."""
    first, basis = open_basis(world)
    config, names = world[0], world[2].weights.keys()
    shutil.copytree(tmp_path / "toy_a", tmp_path / "copy")
    own = str(tmp_path / "toy_a")
    paths = {k: v.replace(own, f"{tmp_path}/copy") for k, v in config.experts.items()}
    moved = config.model_copy(update={"experts": paths})
    monkeypatch.setattr(BasisJob, "compute", lambda *_: pytest.fail("made again"))
    reads.counts.clear()
    again, found = open_basis((moved, *world[1:]))
    assert again.fingerprint == first.fingerprint
    same(found, basis)
    assert reads.of("copy", names) == {1} and reads.of("toy_b", names) == {0}


def test_experts_that_differ_inside_only_are_told_apart(world, tmp_path):
    """First and last rows are equal, so that only the whole hash can tell."""
    first, basis = open_basis(world)
    change_inside(tmp_path / "toy_b" / "model.safetensors")
    other, changed = open_basis(world)
    assert other.key.sample == first.key.sample
    assert other.fingerprint != first.fingerprint
    assert kept_path(first.fingerprint).is_file() and other.key.kept.is_file()
    with pytest.raises(AssertionError):
        same(changed, basis)


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("new", [False, True], ids=["", "files just written"])
def test_work_goes_on_only_with_the_same_files(
    world, reads, tmp_path, monkeypatch, new, changed
):
    """A change may leave the time of a file that was just written as it was."""
    monkeypatch.setattr(runs_basis, "LARGE", 0)
    if new:
        monkeypatch.setattr(safetensors, "_SETTLED", 3600.0)
        monkeypatch.setattr(FullExpert, "identity", "all the same")
    write, done = factorise._write, []

    def killed(path, blocks):
        if len(done) == 5:
            raise RunError("the disk is full")
        write(path, blocks)
        done.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(factorise, "_write", killed)
        with pytest.raises(RunError, match="the disk is full"):
            open_basis(world)
    if changed:
        change_inside(tmp_path / "toy_b" / "model.safetensors")
    with monkeypatch.context() as patch:
        more = []
        patch.setattr(factorise, "_write", lambda *a: more.append(a[0]) or write(*a))
        job, found = open_basis(world)
    again = {path.name for path in done} & {path.name for path in more}
    assert bool(again) == changed
    shutil.rmtree(tmp_path / "cache")
    again, whole = open_basis(world)
    assert again.fingerprints == job.fingerprints
    same(found, whole)


def test_files_that_were_just_written_are_read_before(world, reads, monkeypatch):
    """A further change could go unnoticed, so their hash is made first."""
    monkeypatch.setattr(safetensors, "_SETTLED", 3600.0)
    monkeypatch.setattr(runs_basis, "LARGE", 0)
    _, _, model, _ = world
    open_basis(world)
    for task in TASKS:
        assert reads.of(task, model.weights) == {2}
