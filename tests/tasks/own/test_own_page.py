"""The examples of docs/own_tasks.md do what the page says."""

import asyncio
import json
import pathlib
import re

import pytest
import yaml

from cycleqd_jax.chat import Reply
from cycleqd_jax.tasks.base import Split, TaskSettings
from cycleqd_jax.tasks.own.options import named_tasks
from cycleqd_jax.tasks.own.programs import ProgramScorer
from cycleqd_jax.tasks.own.task import OwnTask

PAGE = (pathlib.Path(__file__).parents[3] / "docs" / "own_tasks.md").read_text()
EXAMPLES = re.findall(r"```yaml\n# (\{.*)\n(.*)\n```", PAGE)


def test_the_first_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("data").mkdir()
    (rows,) = re.findall(r"<<'END'\n(.*?)END\n", PAGE, re.DOTALL)
    pathlib.Path("data/capitals.jsonl").write_text(rows)
    config = re.search(r"```yaml\n# my_run.yaml.*?\n(.*?)```", PAGE, re.DOTALL)
    data = named_tasks(yaml.safe_load(config.group(1)))
    assert data["tasks"] == ["capitals", "pocket_db"] == list(data["experts"])
    task = OwnTask("capitals", TaskSettings(options=data["task_settings"]["capitals"]))
    assert [len(task.problems(split)) for split in Split] == [1, 1, 1, 1]


def test_every_scorer_has_an_example():
    scorers = {yaml.safe_load(settings)["scorer"] for _, settings in EXAMPLES}
    assert len(scorers) == len(EXAMPLES) == 7


@pytest.mark.parametrize(("row", "settings"), EXAMPLES)
def test_examples_of_scorers(tmp_path, row, settings):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(json.loads(row)))
    options = {**yaml.safe_load(settings), "jsonl": str(path)}
    task = OwnTask("mine", TaskSettings(sizes={Split.TEST: 1}, options=options))
    (problem,) = task.problems(Split.TEST)
    assert task.dialogue(problem)[-1]["role"] == "assistant"
    if isinstance(task._scorer, ProgramScorer):
        return

    async def score(text):
        async def chat(messages):
            return Reply(text)

        return (await task.run(problem, chat, None)).score

    right, _, wrong = settings.partition("# right: ")[2].partition("; wrong: ")
    for text, expected in ((right, 1.0), (wrong, 0.0)):
        for reply in yaml.safe_load(f"[{text}]"):
            assert asyncio.run(score(reply)) == expected, reply
