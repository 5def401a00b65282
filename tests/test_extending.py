"""docs/extending.md, word for word: its code is run as it stands there."""

import pathlib
import re
import sys

import numpy as np
import pytest
import toy_world
import yaml

from cycleqd_jax import files
from cycleqd_jax.tasks.base import Split, TaskSettings
from experiments import agent_skills

README = pathlib.Path(__file__).parents[1] / "README.md"
DOC = pathlib.Path(__file__).parents[1] / "docs" / "extending.md"


def blocks(language):
    """First comment line (a file name) -> the code under it."""
    found = re.findall(
        rf"```{language}\n# ([\w.]+)[^\n]*\n(.*?)```", DOC.read_text(), re.S
    )
    return dict(found)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, code in blocks("python").items():
        (tmp_path / name).write_text(code)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_each_example_is_short():
    code = blocks("python")
    assert list(code) == [
        "my_task.py",
        "my_play.py",
        "my_merge.py",
        "my_mutation.py",
        "my_search.py",
        "my_slope.py",
        "my_try.py",
    ]
    assert max(len(text.splitlines()) for text in code.values()) < 80


def test_the_examples_run(folder, toy_settings, capsys):
    settings = yaml.safe_load(blocks("yaml")["my_run.yaml"])
    (own_task, _), other = settings["tasks"], toy_world.ENTRIES[1]
    experts = toy_settings["experts"]
    config = toy_settings | {
        "tasks": [own_task, other],
        "experts": {own_task: experts[toy_world.ENTRIES[0]], other: experts[other]},
        "qd": toy_settings["qd"] | settings["qd"] | {"num_generations": 4},
        "engine": toy_settings["engine"] | {"length": "auto"},
        "run_dir": str(folder / "run"),
    }
    path = toy_world.write_config(folder / "my_run.yaml", config)
    assert agent_skills.main(["--config", str(path)]) == 0
    assert "aggregated" in capsys.readouterr().out
    state = files.read_json(folder / "run" / "state.json")
    assert state["tasks"] == ["roman", "toy_b"]
    assert state["evaluated_children"] == 4
    # README's example reads the run.
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    example = example.replace("runs/quickstart", str(folder / "run"))
    exec(example.replace("pocket_db", "toy_b"), {})
    champion = state["aggregation"]["toy_b"]["individual"]
    assert capsys.readouterr().out.startswith(champion)
    # Resumed only with the operators it was begun with.
    merge = folder / "my_merge.py"
    merge.write_text(merge.read_text().replace("0.2", "0.3"))
    del sys.modules["my_merge"]
    more = ["--config", str(path), "qd.num_generations=6", "--resume"]
    assert agent_skills.main(more) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "begun with other code of qd.crossover (my_merge:by_matrix)" in error


@pytest.mark.parametrize(
    "name",
    ["my_search:HillClimb", pytest.param("my_slope:Slope", marks=pytest.mark.slow)],
)
def test_the_search_runs_and_resumes(folder, toy_settings, name):
    config = toy_settings | {"search": name}
    states = []
    for place, stops in (("whole", ["6"]), ("parts", ["4", "6"])):
        path = toy_world.write_config(
            folder / "run.yaml", config | {"run_dir": str(folder / place)}
        )
        for stop in stops:
            settings = [f"qd.num_generations={stop}", "--resume"]
            assert agent_skills.main(["--config", str(path), *settings]) == 0
        states.append(files.read_json(folder / place / "state.json"))
    assert states[0] == states[1]
    assert states[0]["result"] == "champion/mean"
    names = [model["name"] for model in states[0]["models"]]
    assert names[-2:] == ["best_of_search", "champion/mean"]


def test_a_search_is_tried_without_a_model(folder):
    import my_try

    name = "my_search:HillClimb"
    for children in (6, 60):
        parts = my_try.try_search(name, folder / "parts", children)
    whole = my_try.try_search(name, folder / "whole", 60)
    np.testing.assert_array_equal(parts, whole)
    assert whole.mean() > 0.8


def test_the_task_is_right(folder):
    import my_task

    sizes = {Split.OPTIMISE: 20, Split.TEST: 20}
    task = my_task.Roman(TaskSettings(seed=1, sizes=sizes))
    ids = [p.id for split in sizes for p in task.problems(split)]
    assert len(set(ids)) == 40
    assert [my_task.roman(n) for n in (4, 1994, 2026)] == ["IV", "MCMXCIV", "MMXXVI"]


def test_the_task_is_played(folder):
    import my_play
    import my_task

    sizes = {Split.OPTIMISE: 2}
    task = my_task.Roman(TaskSettings(seed=1, sizes=sizes))
    problem = task.problems(Split.OPTIMISE)[0]
    outcomes = [
        my_play.play(task, problem, said).outcome for said in (problem.answer, "\0")
    ]
    assert outcomes == ["solved", "wrong"]
