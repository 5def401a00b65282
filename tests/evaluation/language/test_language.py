"""Tasks, their scores, and what can be wrong with them."""

import pytest
from lm_eval import evaluator

from cycleqd_jax.config import load_config, to_yaml
from cycleqd_jax.errors import RunError
from cycleqd_jax.evaluation.language.engine import Panel
from cycleqd_jax.evaluation.language.lm import EngineLM, Shared
from cycleqd_jax.evaluation.language.scores import retention, task_scores
from cycleqd_jax.evaluation.language.settings import LanguageConfig
from cycleqd_jax.evaluation.language.task import DEFAULT_TASKS, Speaker


def test_the_default_tasks_exist(harness):
    names = harness.default_tasks()
    assert names[: len(DEFAULT_TASKS)] == DEFAULT_TASKS
    harness.check(names)


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
    scores = task_scores("group", results)
    assert [(s.task, s.metric, s.is_part) for s in scores] == [
        ("group", "acc", False),
        ("part", "acc", True),
        ("part", "em[strict]", True),
    ]
    assert [s.stderr for s in scores] == [None, 0.1, None]
    assert all(s.higher_is_better for s in scores)
    del results["results"]["group"], results["groups"]
    assert not any(s.is_part for s in task_scores("group", results))


def test_retention():
    assert retention(0.3, 0.6) == 0.5
    assert retention(0.3, 0.0) is None


def test_a_task_that_fails_is_named(harness, model, engine_for, monkeypatch):
    def evaluate(*args, **more):
        raise KeyError("answer")

    monkeypatch.setattr(evaluator, "evaluate", evaluate)
    loaded = harness.load("own_choice")
    with pytest.raises(RunError, match=r"own_choice fails.*KeyError"):
        harness.run(
            "own_choice", loaded, Speaker(model.tokenizer, 2048), Panel(engine_for)
        )


def test_passes_must_ask_the_same(engine_for, hf):
    shared = Shared(Panel(engine_for, individuals=(0, 0)))
    first, second = (
        EngineLM(shared, hf.tokenizer, max_length=64, individual=i) for i in (0, 1)
    )
    pair = ("", [5, 6], [7])
    assert first._loglikelihood_tokens([pair]) == second._loglikelihood_tokens([pair])
    with pytest.raises(RunError, match="individuals_per_pass=1"):
        EngineLM(shared, hf.tokenizer, max_length=64)._loglikelihood_tokens(
            [("", [5, 6], [8])]
        )


def test_the_shipped_config_survives_the_round_trip(tmp_path):
    first = load_config("experiments/configs/language.yaml", [], LanguageConfig)
    assert first.engine.deterministic is False and first.tasks == DEFAULT_TASKS
    path = tmp_path / "copy.yaml"
    path.write_text(to_yaml(first))
    assert load_config(path, [], LanguageConfig) == first
