"""Recorded verdicts of the reference, on every backend."""

import json
import os
import pathlib

import benchmark_data
import pytest

from cycleqd_jax.tasks.base import Outcome
from cycleqd_jax.tasks.dbbench import judge, metrics

pytestmark = benchmark_data.needs_data


def _rows(name: str) -> list[dict]:
    """Nothing where the data are not here: the tests are skipped then."""
    folder = os.environ.get(benchmark_data.VARIABLE)
    if not folder:
        return []
    text = pathlib.Path(folder, "golden", name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _params(name: str) -> list:
    return [pytest.param(row, id=row["id"]) for row in _rows(name)]


@pytest.fixture(scope="module")
def results(request, make_task, play):
    """Backend -> the results of all rows, played at once."""
    played: dict[str, list] = {}

    def get(options):
        name = options["backend"]
        if name not in played:
            task = make_task(**options)
            rows = _rows("dbbench.jsonl")
            played[name] = play(task, [task.transcript(row) for row in rows])
        return played[name]

    return get


@pytest.mark.parametrize("row", _params("dbbench.jsonl"))
def test_an_episode_gives_the_recorded_verdict(row, backend_options, results):
    index = [r["id"] for r in _rows("dbbench.jsonl")].index(row["id"])
    result = results(backend_options)[index]
    expected = row["expected"]
    assert (result.outcome is Outcome.SOLVED) == expected["correct"]
    assert result.turns == expected["turns_used"]
    assert result.prediction == expected["prediction"]
    assert len(result.feedback) == len(expected["feedback"])
    for said, recorded in zip(result.feedback, expected["feedback"], strict=True):
        if row["server_error_text"] and not recorded.startswith("["):
            # The number and the state are the same everywhere, the words are not.
            assert said[:13] == recorded[:13]
        else:
            assert said == recorded


@pytest.mark.parametrize("row", _params("dbbench_metrics.jsonl"))
def test_accuracies_are_the_recorded_ones(row):
    said: dict[str, list[float]] = {}
    for entry, target in zip(row["entries"], row["targets"], strict=True):
        if entry is not None:
            category = entry["type"]
            right = float(judge.is_right(category, entry["answer"], target))
            names = {category, metrics.group(category), "overall_cat"}
            values = {f"{name}_accuracy": right for name in names}
            for name, value in {**values, "round": entry["history_length"]}.items():
                said.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in said.items()}
    means["average_round"] = means.pop("round", 0.0)
    scores = metrics.summarise(means)
    assert {name: scores.get(name, 0) for name in row["expected"]} == row["expected"]
