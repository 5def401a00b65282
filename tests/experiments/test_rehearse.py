"""`experiments.rehearse` from outside: what it writes, runs and refuses."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.known_models import known_model
from experiments import rehearse
from experiments.rehearsal import world
from experiments.rehearsal.scripted import is_replaced
from experiments.rehearsal.world import shrunken

CONFIG = pathlib.Path("experiments/configs/paper.yaml").absolute()
PROOF = pathlib.Path("tests/proofs/prove_rehearsal.py").absolute()
# The sizes of the engine cost the time of a test.
SMALL = (
    "--shrink 64 --generations 2 --problems 1 engine.slots=4 engine.prefill_rows=4 "
    "engine.length=512 engine.prefill_chunk=128"
).split()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder and a cache of its own, without data of benchmarks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CYCLEQD_BENCHMARK_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow  # `make rehearsal` does it too
def test_it_runs_the_paper_s_config_on_files_like_the_real_ones(elsewhere, capsys):
    command = ["--config", str(CONFIG), *SMALL]
    assert rehearse.main(command) == 0
    said = capsys.readouterr().out
    assert "pocket_db stands in for dbbench" in said
    assert "of the experts' energy: pocket_coding 100.0%" in said
    models = elsewhere / "runs" / "rehearsal_models"
    for name in ("base", "mbpp", "dbbench", "os_interaction"):
        index = json.loads((models / name / safetensors.INDEX).read_text())
        assert len(set(index["weight_map"].values())) >= 3
    base = load_model(models / "base")
    assert base.config.hidden_size == 64 and base.config.num_key_value_heads == 8
    report = files.read_json(
        elsewhere / "runs" / "rehearsal" / "report" / "report.json"
    )
    assert report["tasks"] == ["pocket_coding", "pocket_db", "pocket_os"]
    # All but the models and the amount of work is the paper's.
    real = load_config(CONFIG, SMALL[6:], RunConfig).model_dump()
    ran = load_config(models / "rehearsal.yaml", [], RunConfig).model_dump()
    changed = {
        key
        for key, value in real.items()
        if ran[key] != value and key not in ("run_dir", "base_model", "experts")
    }
    assert changed == {"tasks", "task_settings", "qd", "basis"}
    own = {n for n, value in real["qd"].items() if ran["qd"][n] != value}
    assert own == {"num_generations", "children_per_batch"}
    assert ran["basis"] == real["basis"] | {"host_below": 16}
    # Started again, nothing is written or run twice.
    before = {p: p.stat().st_mtime_ns for p in models.rglob("*.safetensors")}
    assert rehearse.main(command) == 0
    assert before == {p: p.stat().st_mtime_ns for p in models.rglob("*.safetensors")}
    assert "was there" in capsys.readouterr().out


def test_a_rank_shrinks_with_the_model(elsewhere):
    real = load_config(CONFIG.with_name("paper_lowrank.yaml"), [], RunConfig)
    path = world.write_world(real, elsewhere / "m", world.Sizes(32, 3, 1), Observer())
    ran = load_config(path, [], RunConfig)
    assert (ran.basis.rank, ran.basis.host_below) == (4, 32)
    assert ran.engine == real.engine and ran.qd.children_per_batch == 1


def test_shrunken_models_have_the_heads_of_the_real_one():
    real = known_model("llama-3-8b").config
    assert shrunken(real, 1) == real
    small = shrunken(real, 16)
    assert (small.hidden_size, small.intermediate_size, small.head_dim) == (256, 896, 8)
    assert (small.num_attention_heads, small.num_key_value_heads) == (32, 8)
    assert (small.num_hidden_layers, small.vocab_size) == (2, 8064)


def test_replies_are_replaced_by_their_tokens_alone():
    rng = np.random.default_rng(0)
    drawn = [is_replaced(rng.integers(0, 9, 5).tolist(), "a") for _ in range(400)]
    assert 0.5 < np.mean(drawn) < 0.7
    assert is_replaced([1, 2], "a") == is_replaced([1, 2], "a")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--shrink", "3"], "--shrink 3: expected a number that divides the widths"),
        (["--shrink", "128"], "leaves heads of an even width"),
        (["--problems", "0"], "--problems is 0"),
        (["base_model=some/unknown"], "some/unknown"),
        (["tasks=[mbpp, humaneval]", "experts={mbpp: a/b, humaneval: c/d}",
          "task_settings={}"], "humaneval has no scripted form"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence(
    changed, said, elsewhere, capsys, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert rehearse.main(["--config", str(CONFIG), *changed]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_models_of_other_sizes_are_not_overwritten(elsewhere, capsys):
    folder = elsewhere / "models" / "base"
    folder.mkdir(parents=True)
    settings = shrunken(known_model("llama-3-8b").config, 32).to_hf()
    (folder / "config.json").write_text(json.dumps(settings))
    command = ["--config", str(CONFIG), "--folder", "models"]
    assert rehearse.main(command) == 2
    assert f"{folder}: holds a model of other sizes" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_on_eight_simulated_devices_it_ends_the_same():
    done = subprocess.run(
        [sys.executable, PROOF, "--simulate", "8", *SMALL, "--generations", "4"],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        timeout=7200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same after 3 kills" in done.stdout
    assert "the basis is the same" in done.stdout
