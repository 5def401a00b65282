"""Rows of scores, task files of one's own, and what can fail."""

import pytest

pytest.importorskip("lm_eval", reason="the extra `language` is not installed")

import language_tasks
import yaml
from lm_eval.tasks import TaskManager

from cycleqd_jax.config import load_config, to_yaml
from cycleqd_jax.runs import language
from cycleqd_jax.runs.language_settings import LanguageConfig
from cycleqd_jax.tasks.harness import load


@pytest.fixture(scope="module")
def all_tasks(tmp_path_factory):
    """All tasks of the harness and our own; finding them takes seconds."""
    folder = language_tasks.write_tasks(tmp_path_factory.mktemp("tasks"))
    return TaskManager(include_path=[str(folder)])


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
    monkeypatch.setattr(load, "TaskManager", find)
    assert load.find_tasks(["mixed"], [str(tmp_path)]) is all_tasks


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
    scores = language.score_rows("group", results)
    assert [(s["task"], s["metric"], s["is_part"]) for s in scores] == [
        ("group", "acc", False),
        ("part", "acc", True),
        ("part", "em[strict]", True),
    ]
    assert [s["stderr"] for s in scores] == [None, 0.1, None]
    assert all(s["higher_is_better"] for s in scores)
    del results["results"]["group"], results["groups"]
    assert not any(s["is_part"] for s in language.score_rows("group", results))


def test_the_shipped_config_survives_the_round_trip(tmp_path):
    first = load_config("experiments/configs/language.yaml", [], LanguageConfig)
    assert first.engine.deterministic is False
    assert first.tasks == LanguageConfig(run="x").tasks
    path = tmp_path / "copy.yaml"
    path.write_text(to_yaml(first))
    assert load_config(path, [], LanguageConfig) == first
