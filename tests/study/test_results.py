"""The tokens of trained adapters, and who plays a task without an expert."""

import json
import types

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.study import results
from cycleqd_jax.study.results import adapter_tokens
from cycleqd_jax.study.settings import AdapterMethod


def test_an_adapter_has_the_tokens_of_its_training_unless_told_otherwise(tmp_path):
    method = AdapterMethod(adapter=str(tmp_path))
    assert adapter_tokens(method) is None
    written = {"tokens_forward": 70, "tokens_backward": 15, "seconds": 1.0}
    (tmp_path / "cost.json").write_text(json.dumps(written))
    assert adapter_tokens(method) == 100  # a backward token counts as two
    assert adapter_tokens(AdapterMethod(adapter=str(tmp_path), tokens=7)) == 7


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"tokens_forward": null}'])
def test_a_damaged_cost_is_named(tmp_path, text):
    (tmp_path / "cost.json").write_text(text)
    with pytest.raises(BadInputError, match=r"cost\.json is damaged"):
        adapter_tokens(AdapterMethod(adapter=str(tmp_path)))


def test_a_task_without_an_expert_is_played_by_the_best_on_optimise(monkeypatch):
    scores = {  # expert -> split -> task -> problem -> score
        "expert/a": {
            "optimise": {"a": {"1": 0.0}, "c": {"1": 1.0, "2": 0.0}},
            "test": {"a": {"3": 0.25}, "c": {"3": 0.9}},
        },
        "expert/b": {
            "optimise": {"a": {"1": 1.0}, "c": {"1": 1.0, "2": 1.0}},
            "test": {"a": {"3": 1.0}, "c": {"3": 0.5}},
        },
    }
    run = types.SimpleNamespace(experts=("a", "b"), tasks=("a", "c"))
    monkeypatch.setattr(results, "open_run", lambda path, finished: run)
    monkeypatch.setattr(results.reading, "read_scores", lambda path, names: scores)
    found = results._read_own_experts("run")
    assert found == {"a": {"3": 0.25}, "c": {"3": 0.5}}
