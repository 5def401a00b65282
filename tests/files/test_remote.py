"""Models, experts and configs in a bucket; fsspec's memory stands for it."""

import fsspec
import jax
import numpy as np
import pytest
import toy_world

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import remote
from cycleqd_jax.models.loading import load_expert, load_model
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.setup import prepare


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The settings of a run in memory://, with a LoRA and a full expert."""
    folder = tmp_path_factory.mktemp("world")
    settings = toy_world.make_world(folder, 2, full=("toy_b",))
    fsspec.filesystem("memory").put(str(folder), "/bucket", recursive=True)
    text = toy_world.write_config(folder / "run.yaml", settings).read_text()
    moved = text.replace(str(folder), "memory://bucket")
    fsspec.filesystem("memory").pipe("/bucket/run.yaml", moved.encode())
    return folder, text


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_run_from_a_bucket_is_the_run_from_a_folder(bucket, tmp_path):
    (tmp_path / "run.yaml").write_text(bucket[1])
    here = load_config(tmp_path / "run.yaml", [], RunConfig)
    there = load_config("memory://bucket/run.yaml", [], RunConfig)
    assert there.base_model == "memory://bucket/base" and there.run_dir == here.run_dir
    local, distant = (prepare(config, None, Observer()) for config in (here, there))
    assert local.fingerprints == distant.fingerprints
    for a, b in zip(
        jax.tree.leaves((local.basis, local.weights)),
        jax.tree.leaves((distant.basis, distant.weights)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_only_small_files_are_copied(bucket, tmp_path):
    folder = remote.copy_folder("memory://bucket/toy_b/")
    names = {path.name for path in folder.iterdir()}
    assert "config.json" in names and "model.safetensors" not in names
    weights = "memory://bucket/toy_b/model.safetensors"
    assert remote.find(folder, "model.safetensors") == weights
    assert remote.find(folder, "config.json") == folder / "config.json"
    assert remote.find(folder, "nothing") is None


def test_a_file_is_read_by_ranges(monkeypatch):
    content = bytes(range(256))
    fsspec.filesystem("memory").pipe("/bucket/bytes", content)
    monkeypatch.setattr(remote, "_CALL", 7)
    file = remote.RemoteFile("memory://bucket/bytes")
    assert file.size == 256 and file.read(3, 9) == content[3:9]
    buffer = np.zeros(50, np.uint8)
    file.read_into(buffer, 100)
    assert buffer.tobytes() == content[100:150]
    before = file.identity
    fsspec.filesystem("memory").pipe("/bucket/bytes", content[::-1])
    assert remote.RemoteFile("memory://bucket/bytes").identity != before


def test_what_cannot_be_reached_is_one_sentence(bucket):
    with pytest.raises(BadInputError, match=r"^memory://bucket/none: there is no such"):
        load_model("memory://bucket/none")
    with pytest.raises(BadInputError, match=r"^memory://no.yaml: there is no"):
        load_config("memory://no.yaml", [], RunConfig)
    with pytest.raises(BadInputError, match=r"gs:// is not .* pip install gcsfs"):
        load_model("gs://bucket/model")
    with pytest.raises(BadInputError, match="bucket2://x: cannot be reached"):
        load_model("bucket2://x")


def test_a_truncated_shard_in_a_bucket_is_named(bucket):
    base = load_model("memory://bucket/base")
    memory = fsspec.filesystem("memory")
    memory.copy("/bucket/toy_b", "/bucket/cut", recursive=True)
    path = "/bucket/cut/model.safetensors"
    memory.pipe(path, memory.cat(path)[:-1])
    with pytest.raises(
        BadInputError, match=r"memory://bucket/cut/model.safetensors: is"
    ):
        load_expert("memory://bucket/cut", base)
