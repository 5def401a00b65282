"""Full experts are read once where their hash is kept, and twice before."""

import collections
import pathlib

import pytest
import toy_world

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.models import experts
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.formats.tensor_file import TensorFile
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.basis import BasisJob
from cycleqd_jax.runs.engines import make_program
from cycleqd_jax.runs.tasks import make_tasks

TASKS = ("toy_a", "toy_b")


@pytest.fixture
def reads(monkeypatch):
    """(folder, tensor) -> how often it was read as a whole."""
    counts, read = collections.Counter(), TensorFile.__getitem__

    def noted(self, name):
        counts[pathlib.Path(self.path).parent.name, name] += 1
        return read(self, name)

    monkeypatch.setattr(TensorFile, "__getitem__", noted)
    return counts


def test_a_tensor_is_read_for_its_hash_and_for_its_directions(
    tmp_path, monkeypatch, reads
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(experts, "_LARGE", 1)
    monkeypatch.setattr(safetensors, "_SETTLED", -60.0)
    settings = toy_world.make_world(tmp_path, 2, full=TASKS)
    path = toy_world.write_config(tmp_path / "toy.yaml", settings)
    config = load_config(path, [], RunConfig)
    tasks = make_tasks(config.tasks, config.problems, config.task_settings)
    model = load_model(config.base_model)
    program = make_program(model.config, config.dtype, config.engine)

    def times_read(folder):
        """Counts the reads of the tensors of three folders that a basis takes."""
        reads.clear()
        job = BasisJob.open(config, model, tasks)
        job.factorise(program, Observer(), tmp_path / folder)
        of_experts = {reads[task, name] for task in TASKS for name in model.weights}
        of_base = {reads["base", name] for name in model.weights}
        return job.fingerprint, of_experts, of_base

    first, of_experts, of_base = times_read("first")
    assert of_experts == {2} and of_base == {1}
    again, of_experts, of_base = times_read("second")
    assert again == first and of_experts == {1} and of_base == {1}
