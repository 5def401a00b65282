"""The commands of `make tiny`, with fewer and smaller steps."""

import pathlib

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.training.work_folder import WorkFolder
from experiments import agent_skills, new_model, train_experts

CONFIGS = "experiments/configs/"
TASKS = ("pocket_coding", "pocket_db", "pocket_os")
MODEL = [
    "problems.train=600",
    "model.hidden_size=16",
    "model.intermediate_size=16",
    "model.num_hidden_layers=1",
]
# Scoring is tested elsewhere; without it nothing is generated here.
TRAINING = [
    "validate_on=[]",
    "problems.train=24",
    "optimiser.batch_size=4",
    "optimiser.warmup_steps=1",
    "optimiser.checkpoint_every=2",
]


def make(folder: pathlib.Path) -> None:
    """What `make tiny` does, into a folder."""
    command(new_model, "tiny_model", f"output={folder / 'untrained'}", *MODEL)
    base(folder)
    command(
        train_experts,
        "tiny_experts",
        f"base_model={folder / 'base'}",
        f"output={folder / 'experts'}",
        "optimiser.steps=2",
        *TRAINING,
    )


def base(folder: pathlib.Path) -> None:
    command(
        train_experts,
        "tiny_base",
        f"base_model={folder / 'untrained'}",
        f"output={folder}",
        "optimiser.steps=4",
        *TRAINING,
    )


def command(module, name: str, *settings: str) -> None:
    assert module.main(["--config", f"{CONFIGS}{name}.yaml", *settings]) == 0


def weights(folder: pathlib.Path) -> dict[str, bytes]:
    files = folder.rglob("*.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make(folder)
    return folder


def test_it_makes_a_base_model_and_three_experts(made):
    assert weights(made).keys() == {
        "untrained/model.safetensors",
        "base/model.safetensors",
        *(f"experts/{task}/adapter_model.safetensors" for task in TASKS),
    }
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (made / "base" / name).is_file()


def test_it_ends_with_the_same_bytes_also_after_a_stop(made, tmp_path, monkeypatch):
    before = weights(made)
    make(made)
    assert weights(made) == before
    finish, stops = WorkFolder.finish, []

    def stop_once(work, target):
        if not stops:
            stops.append(target)
            raise BadInputError("stopped before the base was in its place.")
        finish(work, target)

    monkeypatch.setattr(WorkFolder, "finish", stop_once)
    with pytest.raises(AssertionError):
        make(tmp_path)
    assert stops == [tmp_path / "base"] and not (tmp_path / "base").exists()
    make(tmp_path)
    assert weights(tmp_path) == before


def test_the_search_takes_them(made, tmp_path, capsys):
    """All prompts and replies fit the engine's length."""
    settings = [
        f"base_model={made / 'base'}",
        f"run_dir={tmp_path / 'run'}",
        *(f"experts.{task}={made / 'experts' / task}" for task in TASKS),
    ]
    config = f"{CONFIGS}tiny.yaml"
    assert agent_skills.main(["--config", config, *settings, "--dry-run"]) == 0
    assert "195" in capsys.readouterr().out
