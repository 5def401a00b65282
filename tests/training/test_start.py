"""Training that starts from a merged model: the same function, then updates of it."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import toy_world
from dense_loss import dense_loss

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.models.base import EMBEDDING, HEAD
from cycleqd_jax.models.dialogues import examples_of, turn_end
from cycleqd_jax.models.experts import FullExpert, LoraExpert
from cycleqd_jax.models.families import make_program
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.loading import load_expert, load_model
from cycleqd_jax.runs.opened import OpenedRun
from cycleqd_jax.training import experts, start
from cycleqd_jax.training.start import Start
from experiments import agent_skills, export, train_experts


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a finished run in `run`: toy_a's expert is a full fine-tune."""
    folder = tmp_path_factory.mktemp("start")
    settings = toy_world.make_world(folder, full=("toy_a",))
    settings |= {"run_dir": str(folder / "run"), "basis": {"rank": 3, "keep": False}}
    settings["qd"]["num_generations"] = 2
    settings["engine"]["mode"] = "materialised"
    config = toy_world.write_config(folder / "toy.yaml", settings)
    assert agent_skills.main(["--config", str(config)]) == 0
    target = str(folder / "exported")
    assert export.main([str(folder / "run"), "--to", target, *OF_B]) == 0
    return folder


OF_B = ["--individual", "expert/toy_b"]


def train(world, out, *overrides):
    """Six updates on toy_c, from the expert of toy_b; returns the exit code."""
    settings = {
        "seed": 3,
        "base_model": str(world / "base"),
        "start_from": str(world / "run"),
        "experts": {"more": {"toy_task:ToyC": 1.0}},
        "validate_on": [],
        "output": str(out),
        "save_dtype": "float32",
        "problems": {"train": 8},
        "optimiser": {
            "learning_rate": 0.01,
            "warmup_steps": 2,
            "steps": 6,
            "batch_size": 8,
            "max_length": 64,
            "checkpoint_every": 2,
        },
    }
    path = toy_world.write_config(world / "train.yaml", settings)
    return train_experts.main(["--config", str(path), *overrides])


def history(out: pathlib.Path):
    lines = (out / "more" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def trained(world):
    assert train(world, world / "out", "start_individual=expert/toy_b") == 0
    return world / "out"


def test_the_first_loss_is_that_of_the_individual(world, trained):
    model = load_model(world / "exported")  # the whole model, its weights added up
    program = make_program(model.config, "float32")
    weights = {name: jnp.asarray(w) for name, w in model.weights.items()}
    end, total, count = turn_end(model.tokenizer), 0.0, 0
    for i in range(8):  # an update has all eight dialogues
        dialogue = [
            {"role": "user", "content": f"toy_c train {i}"},
            {"role": "assistant", "content": "ok"},
        ]
        (example,) = examples_of(dialogue, model.tokenizer, end)
        total += dense_loss(program, weights, example)[0]
        count += len(example.learnt)
    rows = history(trained)
    assert rows[0]["loss"] == pytest.approx(total / count, rel=1e-4)
    assert rows[-1]["loss"] < rows[0]["loss"]
    base = load_model(world / "base")
    expert = load_expert(trained / "more", base)
    assert {f.a.shape[0] for f in expert.factors.values()} == {2}  # not lora.rank
    assert (
        "starting from expert/toy_b of the run"
        in (trained / "more" / "README.md").read_text()
    )


def test_the_exported_adapter_gives_the_same_training(world, trained, tmp_path):
    adapter = world / "exported" / "adapter"
    assert train(world, tmp_path, f"start_from={adapter}") == 0
    assert history(tmp_path) == history(trained)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        one, other = ((out / "more" / name).read_bytes() for out in (tmp_path, trained))
        assert one == other


def test_interrupted_it_ends_with_the_same_bits(
    world, trained, tmp_path, monkeypatch, capsys
):
    report = experts._Progress.step

    def interrupted(self, row):
        report(self, row)
        if row.step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experts._Progress, "step", interrupted)
        assert train(world, tmp_path, "start_individual=expert/toy_b") == 130
    assert train(world, tmp_path, "start_individual=expert/toy_c") == 2
    assert "was started with start_individual" in capsys.readouterr().err
    assert train(world, tmp_path, "start_individual=expert/toy_b") == 0
    assert "resumes from its checkpoint of step 4" in capsys.readouterr().out
    assert history(tmp_path) == history(trained)
    name = "more/adapter_model.safetensors"
    assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_it_is_finished_only_as_it_was_begun(world, trained, tmp_path, capsys):
    assert train(world, trained, "start_individual=expert/toy_c") == 2
    assert "start_individual 'expert/toy_b' where it is" in capsys.readouterr().err
    adapter = shutil.copytree(world / "exported" / "adapter", tmp_path / "adapter")
    out = tmp_path / "out"
    assert train(world, out, f"start_from={adapter}", "lora.rank=4") == 0
    assert train(world, out, f"start_from={adapter}", "lora.rank=5") == 0  # not used
    shutil.rmtree(adapter)
    shutil.copytree(world / "toy_c", adapter)
    capsys.readouterr()
    assert train(world, out, f"start_from={adapter}") == 2
    assert "was trained with another start" in capsys.readouterr().err


def test_a_matrix_with_another_scale_starts_as_it_is():
    rng = np.random.default_rng(0)
    halves = rng.standard_normal((2, 2, 4, 4), np.float32)
    factors = {
        name: LoraFactor(b, a, scale)
        for name, (b, a), scale in zip("xy", halves, (2.0, 0.5), strict=True)
    }
    start = Start(LoraExpert(factors), "it")
    assert start.scale == 2.0
    for name, found in start.factors().items():
        b, a, scale = factors[name]
        got = start.scale * (np.float64(found["b"]) @ np.float64(found["a"]))
        np.testing.assert_allclose(
            got, scale * (np.float64(b) @ np.float64(a)), rtol=1e-6
        )
    np.testing.assert_array_equal(start.factors()["x"]["b"], factors["x"].b)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["start_individual=uniform_merge"], ["not exactly an adapter", "would lose"]),
        (["start_individual=trained_expert/toy_a"], ["is a whole model"]),
        (["start_individual=base"], ["base of the run", "changes nothing"]),
        (["start_individual=child/77"], ["'child/77' is no individual"]),
        (["start_from=WORLD/nothing"], ["start_from: expert", "no such folder"]),
        (["start_from=WORLD/toy_a"], ["toy_a is a whole model"]),
        (
            ["start_from=WORLD/toy_b", "start_individual=child/1"],
            ["toy_b is not a run folder"],
        ),
        (["base_model=WORLD/toy_a"], ["is of another base model", "base_model="]),
        (["dtype=bfloat16"], ["is of another base model", "dtype=float32"]),
        (["method=full"], ["start_from is given, but method is full"]),
        (["start_from=", "start_individual=x"], ["start_from is missing"]),
    ],
)
def test_what_cannot_be_a_start_is_refused_before_training(
    world, tmp_path, capsys, changes, words
):
    settings = [change.replace("WORLD", str(world)) for change in changes]
    assert train(world, tmp_path / "out", *settings) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_no_adapter(world, tmp_path, capsys, monkeypatch):
    recipe = Recipe("ties", factor=1.0, density=0.2)
    monkeypatch.setattr(OpenedRun, "individual", lambda self, name: recipe)
    assert train(world, tmp_path / "out", "start_individual=best_of_search") == 2
    assert "best_of_search of the run" in (error := capsys.readouterr().err)
    assert "is a ties merge, which changes single elements" in error


ONE = {"x": LoraFactor(np.ones((2, 1)), np.ones((1, 2)), 1.0)}
ZERO = {"x": LoraFactor(np.zeros((2, 1)), np.ones((1, 2)), 1.0)}


@pytest.mark.parametrize(
    ("expert", "words"),
    [
        (LoraExpert(ONE, {"norm": np.ones(2)}), r"brings whole weights \(norm\)"),
        (LoraExpert({**ONE, EMBEDDING: ONE["x"]}), "changes the embedding or the head"),
        (LoraExpert({HEAD: ONE["x"]}), "changes the embedding or the head"),
        (LoraExpert(ZERO), "changes nothing"),
        (FullExpert({}), "is a whole model"),
    ],
)
def test_only_adapters_of_linear_layers_are_a_start(expert, words):
    with pytest.raises(BadInputError, match=words):
        start.check_adapter(expert, "it")
