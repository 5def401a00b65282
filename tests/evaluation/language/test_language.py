"""Tasks, their scores, and what can be wrong with them."""

import pytest
import yaml
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from cycleqd_jax.config import load_config, to_yaml
from cycleqd_jax.errors import RunError
from cycleqd_jax.evaluation.language import harness
from cycleqd_jax.evaluation.language.harness import find_tasks, run_task, score_rows
from cycleqd_jax.evaluation.language.lm import EngineLM
from cycleqd_jax.evaluation.language.panel import Panel
from cycleqd_jax.evaluation.language.settings import HarnessSettings, LanguageConfig


@pytest.fixture(scope="module")
def all_tasks(own_tasks):
    """All tasks of the harness and our own; finding them takes seconds."""
    return TaskManager(include_path=[str(own_tasks)])


def test_the_default_tasks_exist(all_tasks):
    names = LanguageConfig(run="somewhere").tasks
    assert len(names) == 7 and set(names) <= set(all_tasks.all_tasks)


def test_own_groups_may_have_tasks_of_the_harness(tmp_path, all_tasks, monkeypatch):
    group = {"group": "mixed", "task": ["rte"]}
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(group))

    def find(include_path, include_defaults):
        assert include_path == [str(tmp_path)]
        if include_defaults:
            return all_tasks
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setitem(all_tasks.task_index, "mixed", None)
    monkeypatch.setattr(harness, "TaskManager", find)
    assert find_tasks(["mixed"], [str(tmp_path)]) is all_tasks


def test_a_groups_score_comes_first_and_its_tasks_are_parts():
    results = {
        "results": {
            "part": {"name": "part", "sample_len": 4, "acc,none": 0.5,
                     "acc_stderr,none": 0.1, "em,strict": 0.25,
                     "em_stderr,strict": "N/A"},
            "group": {"name": "group", "alias": "g", "sample_len": 4, "acc,none": 0.5},
        },
        "groups": {"group": {}},
        "group_subtasks": {"group": ["part"]},
        "configs": {"part": {}},
        "higher_is_better": {"part": {"acc": True, "em": True}, "group": {"acc": True}},
    }  # fmt: skip
    scores = score_rows("group", results)
    assert [(s["task"], s["metric"], s["is_part"]) for s in scores] == [
        ("group", "acc", False),
        ("part", "acc", True),
        ("part", "em[strict]", True),
    ]
    assert [s["stderr"] for s in scores] == [None, 0.1, None]
    assert all(s["higher_is_better"] for s in scores)
    del results["results"]["group"], results["groups"]
    assert not any(s["is_part"] for s in score_rows("group", results))


def test_a_task_that_fails_is_named(load, model, make_panel, monkeypatch):
    def evaluate(*args, **more):
        raise KeyError("answer")

    monkeypatch.setattr(evaluator, "evaluate", evaluate)
    settings = HarnessSettings()
    lm = EngineLM(make_panel(), "base", model.tokenizer, settings, 2048)
    with pytest.raises(RunError, match=r"own_choice fails.*KeyError"):
        run_task("own_choice", load("own_choice"), lm, settings)


def test_a_pass_that_asks_something_else_gets_its_answers(loader_for, model):
    """A task that draws its problems may ask every individual others."""
    panel = Panel(loader_for, {"one": None, "two": None})
    one, two = (
        EngineLM(panel, name, model.tokenizer, HarnessSettings(), 64)
        for name in ("one", "two")
    )
    same, other = ("", [5, 6], [7]), ("", [5, 6], [8])
    want = one._loglikelihood_tokens([same])
    assert two._loglikelihood_tokens([same]) == want
    assert two._loglikelihood_tokens([other]) != want
    assert two._loglikelihood_tokens([]) == []


def test_the_shipped_config_survives_the_round_trip(tmp_path):
    first = load_config("experiments/configs/language.yaml", [], LanguageConfig)
    assert (
        first.engine.deterministic is False
        and first.tasks == LanguageConfig(run="x").tasks
    )
    path = tmp_path / "copy.yaml"
    path.write_text(to_yaml(first))
    assert load_config(path, [], LanguageConfig) == first
