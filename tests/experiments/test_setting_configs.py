"""The configs of docs/settings.md load, fit, and name experts that others make."""

import pathlib
import shutil

import pytest
import toy_world
import yaml

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig, load_config, to_yaml
from cycleqd_jax.models.loading import load_tokenizer
from cycleqd_jax.runs.engine_sizes import check_prompts
from cycleqd_jax.runs.tasks import check_splits, make_tasks
from cycleqd_jax.tasks.base import Split, reference
from cycleqd_jax.training.settings import TrainConfig
from cycleqd_jax.training.sources import make_source, task_dialogues
from experiments import agent_skills, train_experts

pytestmark = pytest.mark.skipif(
    shutil.which("sqlite3") is None, reason="the program sqlite3 is not installed"
)
CONFIGS = pathlib.Path("experiments/configs")
RUNS = ("composite", "dialects", "four_skills", "hard", "more_experts", "turns2",
        "unequal")  # fmt: skip
MADE = ("dialects_experts", "four_skills_experts", "second_experts", "turns2_experts",
        "unequal_experts", "pocket_hard_experts")  # fmt: skip
FEW = ["problems.train=80", "problems.optimise=60", "problems.validate=8",
       "problems.test=8"]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(toy_world.BASE)


def made_by_trainings() -> set[str]:
    """The folders that the training configs write."""
    found = set()
    for name in MADE:
        config = load_config(CONFIGS / f"{name}.yaml", [], TrainConfig)
        found |= {f"{config.output}/{task}" for task in config.tasks}
    return found


@pytest.mark.parametrize("name", RUNS)
def test_a_setting_is_complete(name, tokenizer, tmp_path):
    path = CONFIGS / f"{name}.yaml"
    assert f"agent_skills --config {path}" in path.read_text()
    config = load_config(path, FEW, RunConfig)
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "again.yaml", [], RunConfig) == config
    for folder in config.expert_paths:
        assert folder in made_by_trainings() or pathlib.Path(folder).is_dir()
    tasks = make_tasks(config.tasks, config.problems, config.task_settings)
    check_splits(config, tasks)
    engine = check_prompts(tasks, [Split.OPTIMISE], tokenizer, config.engine)
    assert engine.length == config.engine.length
    assert f"`{path}`" in pathlib.Path("docs/settings.md").read_text()


@pytest.mark.parametrize("name", MADE)
def test_the_experts_of_a_setting_can_be_trained(name, tokenizer):
    path = CONFIGS / f"{name}.yaml"
    assert f"train_experts --config {path}" in path.read_text()
    config = load_config(path, FEW, TrainConfig)
    for task in make_tasks(config.tasks, config.problems, config.task_settings):
        dialogues = task_dialogues(task)
        longest = config.optimiser.max_length
        source = make_source(
            task.name, dialogues, tokenizer, max_length=longest, drop=False
        )
        assert len(source.examples) == len(dialogues)
        check_prompts([task], [Split.VALIDATE], tokenizer, config.engine)


def test_what_each_setting_is_about():
    def load(name):
        config = load_config(CONFIGS / f"{name}.yaml", FEW, RunConfig)
        tasks = make_tasks(config.tasks, config.problems, config.task_settings)
        return config, {task.name: task for task in tasks}

    config, tasks = load("composite")
    lacks = [name for name, path in config.experts.items() if path == "none"]
    assert lacks == ["pocket_pysql"]
    for name in lacks:
        problem = tasks[name].problems(Split.OPTIMISE)[0]
        assert reference(tasks[name], problem) is None
    config, tasks = load("more_experts")
    assert len(config.expert_paths) == 2 * len(tasks)
    config, tasks = load("turns2")
    for task in tasks.values():
        assert reference(task, task.problems(Split.OPTIMISE)[0]) is None
    full, _ = load("four_skills")
    config = load_config(CONFIGS / "unequal.yaml", [], RunConfig)
    (few,) = (section["train"] for section in config.task_settings.values())
    assert few * 10 == config.problems.train and len(full.tasks) == 4


def test_a_composite_evolves_without_expert_and_gold(toy_settings, tmp_path, capsys):
    """From the dry run to the report, with a random model of two layers."""
    (first, second), names = toy_settings["tasks"][:2], ["pocket_os", "pocket_sqlshell"]
    settings = toy_settings | {
        "tasks": names,
        "experts": {
            "pocket_os": toy_settings["experts"][first],
            "pocket_sqlshell": "none",
            "another": toy_settings["experts"][second],
        },
        "problems": {"optimise": 2, "validate": 2, "test": 1, "train": 4},
        "basis": {
            "keep": False,
            "conditioning": "regmean",
            "conditioning_problems": 2,
            "conditioning_tasks": {"another": "pocket_os"},
        },
        "qd": {
            "num_generations": 2,
            "children_per_batch": 2,
            "bins": 3,
            "mutation": "gradient",
            "ascent_steps": 1,
            "ascent_problems": 1,
        },
        "engine": toy_settings["engine"] | {"length": 192, "mode": "factored"},
    }
    config = toy_world.write_config(tmp_path / "config.yaml", settings)
    command = ["--config", str(config), f"run_dir={tmp_path / 'run'}"]
    assert agent_skills.main([*command, "--dry-run"]) == 0
    assert agent_skills.main(command) == 0
    report = files.read_json(tmp_path / "run" / "report" / "report.json")
    assert report["tasks"] == names and report["experts"] == ["pocket_os", "another"]
    assert set(report["aggregation"]) == set(names)
    assert "another" in capsys.readouterr().out


def test_nobody_is_trained_on_a_composite(tmp_path, capsys):
    settings = yaml.safe_load((CONFIGS / "unequal_experts.yaml").read_text())
    settings |= {"tasks": ["pocket_pysql"], "task_settings": {}}
    settings["problems"] |= {"train": 8, "validate": 4}
    config = toy_world.write_config(tmp_path / "config.yaml", settings)
    output = f"output={tmp_path / 'experts'}"
    assert train_experts.main(["--config", str(config), output]) == 2
    error = capsys.readouterr().err
    assert "pocket_pysql gives no gold answers to learn from" in error
    assert not (tmp_path / "experts").exists()
