"""The training command on a small world: what it writes, resumes and refuses."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import toy_world
import yaml
from event_file import events

from cycleqd_jax.models.experts import FullExpert, LoraExpert
from cycleqd_jax.models.loading import load_expert, load_model
from cycleqd_jax.training.work_folder import WorkFolder
from experiments import train_experts

TESTS = pathlib.Path(__file__).parents[1]
DIALOGUE = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And twice that?"},
    {"role": "assistant", "content": "8, of course."},
]


@pytest.fixture(scope="module")
def settings(toy_settings, tmp_path_factory):
    """A mixture of two tasks, and a file of one's own."""
    data = tmp_path_factory.mktemp("data") / "chat.jsonl"
    lines = [{"messages": DIALOGUE[:n]} for n in (3, 5, 3)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "seed": 3,
        "base_model": toy_settings["base_model"],
        "experts": {
            "both": {"toy_task:ToyA": 0.5, "toy_task:ToyB": 0.5},
            "mine": {str(data): 1.0},
        },
        "problems": toy_settings["problems"],
        "lora": {"rank": 2},
        "optimiser": {
            "learning_rate": 0.01,
            "warmup_steps": 1,
            "steps": 5,
            "batch_size": 4,
            "max_length": 64,
            "checkpoint_every": 2,
        },
        "engine": toy_settings["engine"],
    }


def command(folder, settings, *overrides) -> int:
    path = toy_world.write_config(folder / "train.yaml", settings)
    return train_experts.main(["--config", str(path), *overrides])


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def test_adapters_of_a_mixture_and_of_own_dialogues(settings, tmp_path, capsys):
    out = tmp_path / "experts"
    small = ["packing=true", "optimiser.accumulate_steps=2"]
    small += ["logging.to=[tensorboard]"]
    assert command(tmp_path, settings, f"output={out}", *small) == 0
    assert sorted(p.name for p in out.iterdir()) == ["both", "logs", "mine"]
    base = load_model(settings["base_model"])
    for name in ("both", "mine"):
        expert = load_expert(out / name, base)
        assert isinstance(expert, LoraExpert) and len(expert.factors) == 14
        history = (out / name / "history.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in history]
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
        assert all(list(row) == ["step", "loss", "token_accuracy"] for row in rows)
        logged = {
            (event.step, value.tag): value.simple_value
            for event in events(out / "logs" / name)
            for value in event.summary.value
        }
        assert {logged[row["step"], "loss"] for row in rows} == {
            row["loss"] for row in rows
        }
        assert (5, "validate/toy_a") in logged
        check_cost(out / name)
        card = (out / name / "README.md").read_text()
        assert "| toy_a |" in card and "| toy_b |" in card
    assert "`toy_task:ToyA` (50.0%; 8 generated problems" in card_of(out / "both")
    assert "(100.0%; 3 dialogues)" in card_of(out / "mine")

    before = contents(out)
    assert command(tmp_path, settings, f"output={out}", *small) == 0
    assert contents(out) == before
    assert "mine is complete" in capsys.readouterr().out
    assert command(tmp_path, settings, f"output={out}", *small, "seed=4") == 2
    assert "was trained with seed 3 where it is now 4" in capsys.readouterr().err
    assert contents(out) == before


def check_cost(folder: pathlib.Path) -> None:
    """Each of 5 updates has 4 dialogues, forward and backward; then replies forward."""
    cost = json.loads((folder / "cost.json").read_text())
    updates, scores = cost["parts"]["updates"], cost["parts"]["scores"]
    assert updates["tokens_forward"] == updates["tokens_backward"]
    assert 20 * 8 <= updates["tokens_forward"] <= 20 * 64
    assert cost["tokens_backward"] == updates["tokens_backward"]
    assert scores["tokens_forward"] > 0 == scores["tokens_backward"]
    total = updates["tokens_forward"] + scores["tokens_forward"]
    assert cost["tokens_forward"] == total and cost["seconds"] > 0


def card_of(folder: pathlib.Path) -> str:
    return (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)]
)
def test_full_fine_tunes_are_hugging_face_folders(settings, tmp_path, dtype):
    import torch
    import transformers

    out = tmp_path / "experts"
    own = settings | {
        "experts": {"mine": settings["experts"]["mine"]},
        "validate_on": ["toy_task:ToyC"],
    }
    options = [f"output={out}", "method=full", f"dtype={dtype}", f"save_dtype={dtype}"]
    assert command(tmp_path, own, *options) == 0
    base = load_model(settings["base_model"])
    expert = load_expert(out / "mine", base)
    assert isinstance(expert, FullExpert)
    assert expert.weights.keys() == base.weights.keys()
    moved = {
        name: np.abs(np.asarray(w, np.float32) - base.weights[name]).max()
        for name, w in expert.weights.items()
    }
    assert all(w.dtype == jnp.dtype(dtype) for w in expert.weights.values())
    assert all(0 < value < 0.06 for value in moved.values())  # 5 steps of at most 0.01
    assert "| toy_c |" in card_of(out / "mine")
    assert card_of(out / "mine").count("Full fine-tune") == 1
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out / "mine")
    assert theirs.dtype == getattr(torch, dtype)
    for name, parameter in theirs.named_parameters():
        want = np.asarray(expert.weights[name], np.float32)
        np.testing.assert_array_equal(parameter.detach().float().numpy(), want)


MOMENTS = [
    ("facts written", 1),
    ("checkpoint half written", 1),
    ("step made", 4),
    ("expert half written", 1),
    ("expert put together", 1),
    ("expert in its place", 1),
    ("checkpoint half written", 2),
    ("checkpoint written", 2),
]


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([("checkpoint half written", 2)], id="once"),
        pytest.param(MOMENTS, id="at-every-moment", marks=pytest.mark.slow),
    ],
)
def test_killed_and_started_again_it_ends_with_the_same_bytes(
    settings, tmp_path, moments
):
    full = settings | {"method": "full", "save_dtype": "float32"}
    full["optimiser"] = settings["optimiser"] | {"steps": 7, "validate_every": 3}
    straight = tmp_path / "straight"
    straight.mkdir()
    assert command(straight, full | {"output": str(straight / "out")}) == 0

    toy_world.write_config(tmp_path / "train.yaml", full | {"output": "out"})
    paths = [
        str(TESTS / "support"),
        str(TESTS.parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    # As all tests compute, see `exact_products`.
    environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"

    def start(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *words, "--config", "train.yaml"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    driver = str(TESTS / "training" / "kill_training.py")
    said = ""
    for moment, count in moments:
        killed = start(driver, moment, str(count))
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
        said += killed.stdout
    done = start("-m", "experiments.train_experts")
    assert done.returncode == 0, done.stderr
    assert "resumes from its checkpoint" in done.stdout
    got, want = contents(tmp_path / "out"), contents(straight / "out")
    for settings_file in ("both/training.yaml", "mine/training.yaml"):
        assert yaml.safe_load(got.pop(settings_file))["output"] == "out"
        del want[settings_file]
    assert got.keys() == want.keys()
    for name in ("both/cost.json", "mine/cost.json"):
        one, other = (json.loads(found.pop(name)) for found in (got, want))
        assert one.pop("seconds") > 0 < other.pop("seconds")
        assert one == other
    assert [name for name in want if got[name] != want[name]] == []
    rows = [json.loads(row) for row in want["both/history.jsonl"].splitlines()]
    curve = {r["step"]: r["validation_loss"] for r in rows if "validation_loss" in r}
    assert list(curve) == [3, 6, 7]
    assert curve[7].keys() == {"toy_a", "toy_b"}
    assert curve[7]["toy_a"] < curve[3]["toy_a"]
    said += done.stdout
    assert "both step 6/7  validation loss (token accuracy) toy_a" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experts": {"mine": {"none.jsonl": 1.0}}}, ["none.jsonl: cannot be read"]),
        ({"experts": {"x": {"toy_task:Nope": 1.0}}}, ["toy_task:Nope", "name a class"]),
        ({"optimiser": {"max_length": 16, "batch_size": 4}}, ["max_length is 16"]),
        ({"validate_on": ["toy_task:Nope"]}, ["toy_task:Nope"]),
        ({"problems": {"train": 8, "validate": 0}}, ["problems.validate is 0"]),
        ({"engine": {"slots": 8, "prefill_rows": 4, "length": 16}}, ["engine.length"]),
        ({"method": "full", "base_model": "nowhere"}, ["nowhere"]),
        (
            {"optimiser": {"validate_every": 2, "batch_size": 4}, "validate_on": []},
            ["validate_every is 2", "no task to validate on"],
        ),
        (
            {
                "optimiser": {"validate_every": 2, "batch_size": 4},
                "validate_on": ["toy_task:ToyUnknown"],
            },
            ["validate_every is 2", "toy_unknown has no right answers"],
        ),
    ],
)
def test_everything_wrong_is_said_before_anything_is_trained(
    settings, tmp_path, capsys, changes, words
):
    out = tmp_path / "experts"
    assert command(tmp_path, settings | changes, f"output={out}") == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert "Traceback" not in error
    assert not out.exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_base_model_with_nan_is_not_trained(settings, tmp_path, capsys, method):
    base = shutil.copytree(settings["base_model"], tmp_path / "base")
    toy_world.poison(base)
    changes = {"base_model": str(base), "method": method}
    out = tmp_path / "experts"
    assert command(tmp_path, settings | changes, f"output={out}") == 2
    error = capsys.readouterr().err
    assert f"{base / 'model.safetensors'}: tensor" in error and "not finite" in error
    assert not out.exists()


def test_two_processes_cannot_train_one_expert(settings, tmp_path, capsys):
    out = tmp_path / "experts"
    with WorkFolder(out / ".both.training"):
        assert command(tmp_path, settings, f"output={out}") == 2
    assert "in use by another process" in capsys.readouterr().err
