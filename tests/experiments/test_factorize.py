"""`experiments.factorize` from outside, on a random model with full fine-tunes."""

import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy_world

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.merging import basis_cache, factorise
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs import basis as runs_basis
from cycleqd_jax.runs.setup import prepare
from experiments.factorize import main


@pytest.fixture(scope="module")
def full_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, toy_world.make_world(folder, full=toy_world.TASKS[:3])


@pytest.fixture
def config(full_world, tmp_path, monkeypatch):
    """A config of copied experts; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, settings = full_world
    shutil.copytree(folder, tmp_path / "models")
    experts = {
        entry: path.replace(str(folder), str(tmp_path / "models"))
        for entry, path in settings["experts"].items()
    }
    settings = settings | {
        "experts": experts,
        "basis": {"rank": 4, "host_below": 8, "conditioning": "regmean"},
    }
    return toy_world.write_config(tmp_path / "toy.yaml", settings)


def kept(tmp_path):
    return list((tmp_path / "cache" / "cycleqd_jax" / "bases").glob("*"))


def test_a_run_finds_the_basis_that_was_made_ahead(
    config, tmp_path, capsys, monkeypatch
):
    assert main(["--config", str(config)]) == 0
    said = capsys.readouterr().out
    (path,) = kept(tmp_path)
    assert f"made: {path}" in " ".join(said.split())
    assert "parameters of the basis" in said and "of the experts' energy: toy_a" in said
    assert main(["--config", str(config)]) == 0
    assert "was there" in capsys.readouterr().out and kept(tmp_path) == [path]

    def fail(*_):
        raise AssertionError("computed again")

    settings = load_config(config, [], RunConfig)
    with monkeypatch.context() as patch:
        patch.setattr(runs_basis.BasisJob, "compute", fail)
        patch.setattr(runs_basis.BasisJob, "factorise", fail)
        found = prepare(settings, None, Observer()).basis
    path.unlink()
    made = prepare(settings, None, Observer()).basis
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(made), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_stores_the_work_on_a_large_basis(config, tmp_path, monkeypatch):
    monkeypatch.setattr(runs_basis, "LARGE", 1)
    asked = []
    monkeypatch.setattr(
        basis_cache, "_keep", lambda *_: asked.append("in memory and then kept")
    )
    prepare(load_config(config, [], RunConfig), None, Observer())
    assert len(kept(tmp_path)) == 1 and not asked


def refused(config, capsys, *words):
    assert main(["--config", str(config)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("Bad input: ") and len(said.splitlines()) == 1
    for word in words:
        assert str(word) in said


def test_wrong_experts_are_refused_before_anything_is_computed(
    config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "cycleqd_jax.runs.factorise.load_model", lambda *_, **__: pytest.fail("loaded")
    )
    folder = tmp_path / "models" / "toy_b"
    whole = folder / "model.safetensors"
    weights = dict(safetensors.open_file(whole))
    half = sorted(weights)[: len(weights) // 2]
    parts = {"one.safetensors": half, "two.safetensors": weights.keys() - set(half)}
    for name, names in parts.items():
        safetensors.write_file(folder / name, {n: weights[n] for n in names})
    whole.unlink()
    places = {n: name for name, names in parts.items() for n in names}
    (folder / safetensors.INDEX).write_text(json.dumps({"weight_map": places}))
    second = folder / "two.safetensors"
    content = second.read_bytes()
    second.write_bytes(content[:-1])
    size = len(content)
    refused(config, capsys, second, f"it has {size - 1} bytes instead of {size}")
    second.unlink()
    refused(config, capsys, second, "no such file")
    second.write_bytes(content)
    settings = json.loads((folder / "config.json").read_text())
    settings["num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(settings))
    refused(config, capsys, folder, "maps to nothing")
    shutil.rmtree(folder)
    refused(config, capsys, folder, "no such folder")
    assert kept(tmp_path) == []


def test_a_basis_needs_a_place(config, capsys):
    assert main(["--config", str(config), "basis.keep=false"]) == 2
    assert "basis.keep is false" in capsys.readouterr().err


# Kills itself while it writes the fourth part.
KILLED = """
import os, signal, sys
from cycleqd_jax.merging import factorise
from experiments.factorize import main

write, done = factorise.write_tensors, []

def dying(path, *content):
    write(path, *content)
    done.append(path)
    if len(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

factorise.write_tensors = dying
main(["--config", sys.argv[1]])
"""


def test_killed_and_started_again(config, tmp_path, monkeypatch):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, config],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=900,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (folder,) = kept(tmp_path)
    assert folder.suffix == ".parts" and len(list(folder.glob("*.safetensors"))) == 3
    written, write = [], factorise.write_tensors
    monkeypatch.setattr(
        factorise, "write_tensors", lambda *a: (written.append(a[0]), write(*a))
    )
    assert main(["--config", str(config)]) == 0
    (path,) = kept(tmp_path)
    resumed, content = len(written), path.read_bytes()
    path.unlink()
    written.clear()
    assert main(["--config", str(config)]) == 0
    assert resumed == len(written) - 3 and path.read_bytes() == content
