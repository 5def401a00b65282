"""All labels of the benchmark, played."""

import json

import benchmark_data
import pytest

from cycleqd_jax.tasks.base import Outcome, Split

pytestmark = [benchmark_data.needs_data, pytest.mark.slow]

# Their label statements do not make the state that their hashes are of.
WRONG_LABELS = {"dbbench/225", "dbbench/278", "dbbench/295"}


def _gold(task, problem) -> list[str]:
    said = [m["content"] for m in task.dialogue(problem) if m["role"] == "assistant"]
    return said[1:]  # the first is the prompt's


def test_every_label_is_right_and_nothing_said_is_wrong(
    make_task, play, backend_options
):
    task = make_task(**backend_options)
    problems = [task.problem(index) for index in range(360)]
    results = play(task, [(p, _gold(task, p)) for p in problems])
    wrong = {p.id for p, r in zip(problems, results, strict=True) if not r.score}
    assert wrong == WRONG_LABELS
    results = play(task, [(problem, [""]) for problem in problems])
    assert {result.outcome for result in results} == {Outcome.BAD_ACTION}


def test_shared_databases_cost_what_they_cost_the_reference(
    make_task, play, backend_options
):
    options = {**backend_options, "legacy_shared_database": True}
    task = make_task(split="reference", **options)
    problems = task.problems(Split.OPTIMISE)
    results = play(task, [(p, _gold(task, p)) for p in problems])
    wrong = [
        problem.data["case"].index
        for problem, result in zip(problems, results, strict=True)
        if not result.score
    ]
    path = benchmark_data.data_folder() / "dbbench" / "cycleqd_shared_databases.json"
    recorded = json.loads(path.read_text())
    name = "label_replay_wrong_when_all_341_share_one_server"
    assert wrong == recorded[name]
    scores = recorded["label_replay_metrics_when_all_341_share_one_server"]
    assert len(wrong) == 341 - round(341 * scores["overall_cat_accuracy"])
    messages = sum(result.metrics["messages"] for result in results)
    assert messages / 341 == pytest.approx(scores["average_round"])
