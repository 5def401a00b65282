"""Weights are read tensor by tensor, where they are needed, and once."""

import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import toy_world
from eight_devices import on_eight_devices

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models import experts
from cycleqd_jax.models.experts import FullExpert
from cycleqd_jax.models.formats import safetensors as stored_weights
from cycleqd_jax.models.formats.tensor_file import (
    StoredArray,
    TensorFile,
    write_tensors,
)
from cycleqd_jax.models.loading import load_model

UP = "model.layers.0.mlp.up_proj.weight"
# Reads a sparse file of 480 MB, and prints by how many MB the process grew.
READ_ALL = """
import resource, sys
from cycleqd_jax.models.formats import safetensors
weights = safetensors.open_file(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
weights["t0"]
before = peak()
for name in weights:
    weights[name]
print(peak() - before)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("world")
    toy_world.make_world(path, 2, full=("toy_a",))
    return path


def test_a_file_is_that_of_the_library(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "b": rng.standard_normal((3, 5), np.float32),
        "a": rng.standard_normal((2, 3, 4)).astype(jnp.bfloat16),
        "c": np.arange(7, dtype=np.int32),
        "e": np.zeros((0, 4), np.float16),
        "d": np.asarray(2.5, np.float64),
    }
    metadata = {"format": "pt"}
    write_tensors(tmp_path / "ours", arrays, metadata)
    safetensors.numpy.save_file(arrays, tmp_path / "theirs", metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    file = TensorFile(tmp_path / "theirs")
    assert set(file) == set(arrays) and file.metadata == metadata
    for name, array in arrays.items():
        assert file[name].dtype == array.dtype and file[name].shape == array.shape
        np.testing.assert_array_equal(file[name], array)
        stored = StoredArray(file, name)
        assert (stored.shape, stored.dtype) == (array.shape, array.dtype)
        assert stored.nbytes == array.nbytes
        np.testing.assert_array_equal(np.asarray(stored), array)


@pytest.mark.parametrize("cut", [1, 100, -7, -10_000])
def test_a_file_of_another_length_is_refused(tmp_path, cut):
    write_tensors(tmp_path / "x", {"a": np.zeros((64, 64), np.float32)}, {})
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content[:cut])
    with pytest.raises(BadInputError, match="x: is not a whole safetensors file"):
        TensorFile(tmp_path / "x")
    (tmp_path / "x").write_bytes(content + b"more")
    with pytest.raises(BadInputError, match=f"{len(content) + 4} bytes instead of"):
        TensorFile(tmp_path / "x")


def test_reading_a_file_needs_memory_for_one_tensor(tmp_path):
    """The library's way, a mapped file, would count all of its 480 MB."""
    path = tmp_path / "sparse"
    arrays = {f"t{i}": np.zeros((1000, 6000), np.float32) for i in range(1)}
    write_tensors(path, arrays | {f"t{i}": arrays["t0"] for i in range(20)}, {})
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, path],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 40


def test_weights_of_a_folder_stay_there(folder):
    model = load_model(folder / "base", "bfloat16")
    assert isinstance(model.weights, stored_weights.StoredWeights)
    read = stored_weights.open_folder(folder / "base")
    assert model.weights.outline(UP) == (read[UP].shape, "bfloat16")
    np.testing.assert_array_equal(model.weights[UP], read[UP].astype(jnp.bfloat16))
    for index in [(slice(3, 9),), (slice(None), slice(2, 5)), (slice(1, 2), slice(3))]:
        np.testing.assert_array_equal(
            model.weights.part(UP, index), model.weights[UP][index]
        )
    norm = "model.norm.weight"
    np.testing.assert_array_equal(
        model.weights.part(norm, (slice(2, 4),)), model.weights[norm][2:4]
    )


def test_large_weights_are_read_once_for_their_fingerprint(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(experts, "_LARGE", 1)
    path = tmp_path / "model.safetensors"
    path.write_bytes((folder / "toy_a" / "model.safetensors").read_bytes())
    reads, read = [], TensorFile.__getitem__

    def noted(self, name):
        reads.append(name)
        return read(self, name)

    monkeypatch.setattr(TensorFile, "__getitem__", noted)

    def fingerprint(dtype=None):
        reads.clear()
        weights = stored_weights.open_folder(tmp_path)
        weights = weights if dtype is None else weights.cast_to(np.dtype(dtype))
        return FullExpert(weights).fingerprint

    first = fingerprint()
    assert reads and fingerprint() == first and reads  # changed just now: not kept
    monkeypatch.setattr(stored_weights, "_SETTLED", -60.0)
    assert fingerprint() == first and reads
    assert fingerprint() == first and not reads
    assert fingerprint("float16") != first and reads
    assert FullExpert(dict(stored_weights.open_folder(tmp_path))).fingerprint == first
    toy_world.poison(tmp_path)  # as many bytes as before
    with pytest.raises(BadInputError, match="not finite"):
        fingerprint()


def test_a_host_reads_only_what_its_devices_hold():
    found = on_eight_devices(pathlib.Path(__file__).parent / "streaming_on_a_mesh.py")
    assert found["equal"] and found["equal_basis"]
    down, up, norm = sorted(found["shards"])
    assert found["shards"] == {down: [8, 4], norm: [8], up: [4, 8]}
    # Replicas are read once; columns are cut from whole rows.
    assert found["reads"] == (
        [[down, 0, 8]] * 4
        + [[up, first, first + 4] for first in (0, 4, 8, 12)]
        + [[norm, 0, 8]]
    )
    assert found["u"] == [4, 8] and found["v"] == [8, 8]
