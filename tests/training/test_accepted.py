"""Replies that the verdict accepted: whole dialogues, only solved ones, resumable."""

import asyncio
import json
import subprocess

import pytest
import toy_world

from cycleqd_jax.chat import Reply
from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.progress import Observer
from cycleqd_jax.tasks.base import Outcome, Problem, Result, run_episode
from cycleqd_jax.training import accepted
from cycleqd_jax.training.accepted import RecordedTask
from cycleqd_jax.training.sources import read_dialogues
from experiments import accepted_replies, train_experts

PROBLEMS = 9  # three parts of three


class TwoTurns:
    """Asks twice; the second reply has its beginning given. It fails at first."""

    name, max_new_tokens, fingerprint = "two", 9, "f"

    def __init__(self):
        self.failures = 1

    async def run(self, problem, chat, sandbox):
        turns = [{"role": "user", "content": problem.prompt}]
        first = await chat(turns)
        if self.failures:
            self.failures -= 1
            return Result(Outcome.ENV_ERROR, "", "the database is gone", 1)
        turns += [
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "(no output)"},
            {"role": "assistant", "content": "```"},
        ]
        await chat(turns)
        return Result(Outcome.SOLVED, "", "Right.", 2)


def test_a_recorded_dialogue_is_what_the_model_saw_and_said():
    replies = iter(["lost", "look", "sql\n1```"])

    async def chat(messages, options=None):
        return Reply(next(replies))

    task = RecordedTask(TwoTurns())
    problem = Problem("two/train/0", "How many?", None)
    result = asyncio.run(run_episode(task, problem, lambda: chat, None))
    assert result.outcome is Outcome.SOLVED and task.name == "two"
    assert task.dialogues[problem.id] == (
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "look"},
        {"role": "user", "content": "(no output)"},
        {"role": "assistant", "content": "```sql\n1```"},
    )


@pytest.fixture(scope="module")
def config(toy_settings, tmp_path_factory):
    """A run of two skills; the second has no right answers and no expert of its own."""
    folder = tmp_path_factory.mktemp("accepted")
    first, second, _ = toy_settings["experts"].values()
    own = {
        "tasks": ["toy_task:ToyA", "toy_task:ToyUnknown"],
        "experts": {
            "toy_task:ToyA": first,
            "toy_task:ToyUnknown": "none",
            "further": second,
        },
    }
    problems = toy_settings["problems"] | {"train": PROBLEMS}
    return toy_world.write_config(
        folder / "toy.yaml", toy_settings | own | {"problems": problems}
    )


def collect(config, folder, *overrides):
    return accepted_replies.main(
        ["--config", str(config), "--to", str(folder), *overrides]
    )


@pytest.fixture(scope="module")
def collected(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "replies"
    assert collect(config, folder) == 0
    return folder


def solves(reply: str) -> bool:
    """The verdict of the toy tasks, by the program itself."""
    done = subprocess.run(["cksum"], input=reply.encode(), capture_output=True)
    return int(done.stdout.split()[0]) % 5 < 2


def test_only_solved_dialogues_are_kept_with_where_they_came_from(collected):
    facts = json.loads((collected / "accepted.json").read_text())
    total, solvers = 0, {}
    for task in ("toy_a", "toy_unknown"):
        path = collected / f"{task}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(rows) == facts["tasks"][task]["accepted"] > 0
        assert facts["tasks"][task]["problems"] == PROBLEMS
        for row in rows:
            user, assistant = row["messages"]
            assert user["content"] == row["problem"].replace("/", " ")
            assert solves(assistant["content"])
            assert row["task"] == task
        solvers[task] = {row["expert"] for row in rows}
        assert len({row["problem"] for row in rows}) == len(rows)
        assert len(read_dialogues(path)) == len(rows)
        total += facts["tasks"][task]["tokens_forward"]
    assert facts["tasks"]["toy_a"]["accepted"] < PROBLEMS
    assert solvers == {"toy_a": {"toy_a"}, "toy_unknown": {"toy_a", "further"}}
    assert facts["tokens_forward"] == total > PROBLEMS * 2 * 6
    assert facts["tokens_backward"] == 0 < facts["seconds"]


def test_killed_and_started_again_it_writes_the_same_dialogues(
    config, collected, tmp_path, monkeypatch
):
    monkeypatch.setattr(accepted, "_PART", 3)
    calls = []
    evaluate = LocalEvaluator.evaluate

    def counted(self, individuals, split, *, problems):
        calls.append(problems)
        if len(calls) == 5:  # within the first part of the second task
            raise KeyboardInterrupt
        return evaluate(self, individuals, split, problems=problems)

    monkeypatch.setattr(LocalEvaluator, "evaluate", counted)
    folder = tmp_path / "replies"
    assert collect(config, folder) == 130
    assert not list(folder.glob("*.jsonl"))
    assert collect(config, folder) == 0
    # Three parts a task; the second task has two solvers, and three parts were done.
    assert 5 + 3 <= (done := len(calls)) <= 5 + 3 * 2
    for name in ("toy_a.jsonl", "toy_unknown.jsonl"):
        assert (folder / name).read_bytes() == (collected / name).read_bytes()
    assert collect(config, folder) == 0
    assert len(calls) == done


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("problems.seed=5", "collected with another task toy_a"),
        (
            "experts={'toy_task:ToyA': OTHER, 'toy_task:ToyUnknown': OTHER}",
            "collected with another expert toy_a",
        ),
        ("problems.train=0", "toy_a has no problem to collect replies on"),
        ("engine.length=16", "engine.length is 16"),
    ],
)
def test_what_does_not_fit_is_refused(
    config, collected, toy_settings, capsys, change, words
):
    other = toy_settings["experts"]["toy_task:ToyB"]
    before = sorted((p, p.stat().st_mtime_ns) for p in collected.rglob("*"))
    assert collect(config, collected, change.replace("OTHER", other)) == 2
    assert words in capsys.readouterr().err
    assert sorted((p, p.stat().st_mtime_ns) for p in collected.rglob("*")) == before


def test_a_folder_with_other_files_and_a_damaged_part_are_refused(
    config, tmp_path, capsys
):
    (tmp_path / "notes.txt").write_text("mine")
    assert collect(config, tmp_path) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    task = RecordedTask(TwoTurns())
    task.task.problems = lambda split: (Problem("two/train/0", "?", None),)
    (tmp_path / "two-000000.json").write_text('{"problems": 1}')
    with pytest.raises(accepted.BadInputError, match=r"damaged.*remove it to collect"):
        accepted._collect(None, task, ["e"], tmp_path, Observer())


def test_the_dialogues_are_a_source_of_training(
    toy_settings, config, collected, tmp_path
):
    settings = {
        "base_model": toy_settings["base_model"],
        "experts": {
            "accepted": {
                str(collected / "toy_a.jsonl"): 1.0,
                str(collected / "toy_unknown.jsonl"): 1.0,
            }
        },
        "validate_on": [],
        "output": str(tmp_path / "out"),
        "optimiser": {"steps": 2, "warmup_steps": 1, "batch_size": 2},
    }
    path = toy_world.write_config(tmp_path / "train.yaml", settings)
    assert train_experts.main(["--config", str(path)]) == 0
    assert (tmp_path / "out" / "accepted" / "adapter_model.safetensors").is_file()
