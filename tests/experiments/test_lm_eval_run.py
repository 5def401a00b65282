"""A search whose tasks are those of lm-evaluation-harness, with data of its own."""

import json

import pytest
import toy_world

pytest.importorskip("lm_eval", reason="the extra `language` is not installed")

import language_tasks

from cycleqd_jax.runs.opened import open_run
from experiments import agent_skills


def test_a_run_optimises_tasks_of_the_harness(tmp_path, capsys):
    files = language_tasks.write_tasks(tmp_path, count=16)
    run = toy_world.make_world(tmp_path) | {"run_dir": str(tmp_path / "run")}
    names = ("own_replies", "own_choice")
    tasks = [f"lm_eval:{files}/{name}.yaml" for name in names]
    folders = list(run["experts"].values())
    run |= {
        "tasks": tasks,
        "experts": dict(zip(tasks, folders, strict=False)),
        "problems": {"optimise": 5, "validate": 4, "test": 4, "train": 3},
        "qd": run["qd"] | {"num_generations": 2},
        "engine": run["engine"] | {"length": "auto"},
        "fitness": {"smooth": True},
    }
    path = toy_world.write_config(tmp_path / "toy.yaml", run)
    arguments = ["--config", str(path), f"task_settings.{tasks[1]}.metric=acc_norm"]
    assert agent_skills.main(arguments) == 0
    opened = open_run(tmp_path / "run")
    assert opened.tasks == names
    episodes = list(opened.episodes("own_choice"))
    assert {row["individual"] for row in episodes} >= {"base", "child/1", "child/2"}
    for row in episodes:
        choices = json.loads(row["answer"])
        assert len(choices) == 4 and all(p < 0 for [(p, _)] in choices)
        assert row["score"] == float(row["outcome"] == "solved")
    assert {row["score"] for row in episodes} == {0.0, 1.0}
    texts = [row["replies"][0] for row in opened.episodes("own_replies")]
    assert any(texts) and not any("\n" in text for text in texts)
    before = (tmp_path / "run" / "state.json").read_bytes()
    capsys.readouterr()
    assert agent_skills.main([*arguments, "--resume"]) == 0  # the inputs are the same
    assert (tmp_path / "run" / "state.json").read_bytes() == before
    other = [f"task_settings.{tasks[1]}.metric=acc"]
    assert agent_skills.main([*arguments, *other, "--resume"]) == 2
    assert "own_choice" in capsys.readouterr().err
