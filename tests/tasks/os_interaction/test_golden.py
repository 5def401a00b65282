"""The recorded verdicts of the reference on OS interaction."""

import asyncio
import dataclasses
import json
import os

import pytest

from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.tasks.base import Outcome
from cycleqd_jax.tasks.os_interaction import judge
from cycleqd_jax.tasks.os_interaction.actions import extract_action, feedback
from tests.support.benchmark_data import VARIABLE, data_folder, needs_data

pytestmark = needs_data


def rows(name, kind=None):
    """The golden rows as parameters, none where the data are not here."""
    if not os.environ.get(VARIABLE):
        return [pytest.param(None, id=name)]
    lines = (data_folder() / "golden" / name).read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [pytest.param(r, id=r["id"]) for r in found if kind in (None, r.get("kind"))]


@pytest.mark.parametrize("backend", ["auto", "overlay"])
@pytest.mark.parametrize("row", rows("os_interaction.jsonl"))
def test_episode(row, backend, tasks, play):
    """Verdict and number of replies."""
    task = tasks[backend]
    problem, replies = task.transcript(row)
    (result,) = play(task, [(problem, replies)])
    assert (result.outcome is Outcome.SOLVED) == row["expected"]["correct"]
    assert result.turns == row["expected"]["turns_used"]


@pytest.fixture(scope="module")
def tasks(make_task):
    """By backend."""
    return {name: make_task(backend=name) for name in ("auto", "host", "overlay")}


@pytest.mark.parametrize("row", rows("os_protocol.jsonl", "extract_action"))
def test_extract_action(row):
    """What is read from a reply."""
    action = extract_action(row["output"])
    assert (action.kind, action.content) == (row["action"], row["content"])
    assert action.thought == row["thought"]


@pytest.mark.parametrize("row", rows("os_protocol.jsonl", "bash_feedback"))
def test_feedback(row):
    """What is told of an output."""
    output = row["raw_output_latin1"].encode("latin-1")
    assert not row["finished"]
    assert feedback(output) == row["message"]
    assert feedback(output, raw=True) == row["message"]


@pytest.mark.parametrize("row", rows("os_protocol.jsonl", "check_script"))
def test_check_script(row, task, play_judge):
    """The shared check scripts, where they run when an answer is judged."""
    given = task.problem(row["problem_index"]).data["problem"]
    check = next(s for s in given.check if s is not None)
    problem = dataclasses.replace(given, check=(check,))
    assert play_judge(problem, row["argv"]) == row["passed"]


@pytest.fixture
def play_judge():
    """Runs the one check of a problem on given texts."""

    def run(problem, texts) -> bool:
        async def main():
            sandbox = BubblewrapSandbox(1)
            try:
                words = [os.fsencode(text) for text in texts]
                return await judge.compare(sandbox, problem.check[0], words)
            finally:
                await sandbox.close()

        return asyncio.run(main()).status == 0

    return run
