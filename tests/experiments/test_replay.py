"""`experiments.replay`: verdicts on given replies, and what it says of bad input."""

import json

import mariadb
import pytest
from benchmark_data import data_folder, needs_data

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.tasks.base import Outcome, Problem, Result
from experiments import replay

GOLDEN = {
    "mbpp": ("mbpp_plus.jsonl", ["--sanitizer", "reference"]),
    "dbbench": ("dbbench/cycleqd_standard_dev.jsonl", ["--backend", "private"]),
    "os_interaction": ("os_interaction", []),
}


class Adding:
    """Counts up: a reply is right when it is one more than the one before."""

    name = "adding"
    max_new_tokens = 4
    fingerprint = "0"
    broken = False

    def __init__(self, settings):
        self.settings = settings

    def problems(self, split):
        return ()

    def dialogue(self, problem):
        return ()

    def problem(self, key):
        return Problem(f"adding/{key}", "", None)

    def transcript(self, row):
        return self.problem(row["problem_index"]), tuple(row["outputs"])

    async def run(self, problem, chat, sandbox):
        if problem.id == "adding/5" and Adding.broken:
            raise SandboxError("adding/5: the server is gone")
        first = await chat(({"role": "user", "content": ""},))
        second = await chat(({"role": "user", "content": first.text},))
        right = int(second.text) == int(first.text) + 1
        outcome = Outcome.SOLVED if right else Outcome.WRONG
        return Result(outcome, second.text, "", 2, second.text, (first.text,))


@pytest.fixture
def adding(monkeypatch):
    monkeypatch.setattr(replay, "make_task", lambda name, settings: Adding(settings))
    monkeypatch.setattr(Adding, "broken", False)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def play(tmp_path, rows, *more):
    source = write(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out.jsonl"
    given = ["--task", "adding", "--transcripts", str(source), "--out", str(out)]
    return replay.main([*given, "--sandbox", "none", *more]), out


CASES = [
    {"id": f"c{i}", "problem_index": i, "outputs": ["1", str(1 + i % 2)]}
    for i in range(9)
]


@needs_data
@pytest.mark.parametrize("task", sorted(GOLDEN))
def test_golden_cases(task, tmp_path, capsys):
    """Every recorded verdict, through the command."""
    if task == "dbbench":
        mariadb.skip_without()
    data, more = GOLDEN[task]
    golden = data_folder() / "golden" / f"{task}.jsonl"
    out = tmp_path / "out.jsonl"
    given = ["--task", task, "--data", str(data_folder() / data), "--out", str(out)]
    assert replay.main([*given, "--transcripts", str(golden), *more]) == 0
    for case, got in zip(rows_of(golden), rows_of(out), strict=True):
        assert got["id"] == case["id"]
        expected = dict(case["expected"])
        if case.get("server_error_text"):
            del expected["feedback"]
        assert {name: got[name] for name in expected} == expected, case["id"]


def test_a_line_for_each_case_in_order(adding, tmp_path, capsys):
    code, out = play(tmp_path, CASES)
    assert code == 0
    assert rows_of(out)[1] == {
        "id": "c1",
        "correct": True,
        "turns_used": 2,
        "prediction": "2",
        "feedback": ["1"],
        "explanation": "",
    }
    assert [row["id"] for row in rows_of(out)] == [case["id"] for case in CASES]
    assert [row["correct"] for row in rows_of(out)] == [i % 2 == 1 for i in range(9)]


def test_an_environment_that_fails_keeps_what_was_played(
    adding, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Adding, "broken", True)
    code, out = play(tmp_path, CASES)
    assert code == 1
    assert "adding/5: the server is gone" in capsys.readouterr().err
    assert [row["id"] for row in rows_of(out)] == [f"c{i}" for i in range(5)]
    # A write that was cut off is done again.
    with open(out, "a") as file:
        file.write('{"id": "c5", "corr')
    monkeypatch.setattr(Adding, "broken", False)
    code, out = play(tmp_path, CASES, "--resume")
    assert code == 0
    assert [row["id"] for row in rows_of(out)] == [case["id"] for case in CASES]


def test_texts_that_are_no_utf_8_are_written_too(adding, tmp_path, monkeypatch):
    half = Result(Outcome.WRONG, "", "", 1, "\ud800", ("\ud800",))

    async def run(self, problem, chat, sandbox):
        return half

    monkeypatch.setattr(Adding, "run", run)
    code, out = play(tmp_path, [{"problem_index": 1, "outputs": []}])
    assert code == 0
    assert rows_of(out)[0]["prediction"] == "\ud800"


def test_what_is_there_is_not_overwritten(adding, tmp_path, capsys):
    play(tmp_path, CASES)
    code, _ = play(tmp_path, CASES)
    assert code == 2
    assert "add --resume" in capsys.readouterr().err
    code, _ = play(tmp_path, CASES[1:], "--resume")
    assert code == 2
    assert "is of case c0, but the transcripts have c1" in capsys.readouterr().err


def test_a_transcript_that_is_too_short(adding, tmp_path, capsys):
    short = {"id": "short", "problem_index": 1, "outputs": ["1"]}
    code, out = play(tmp_path, [*CASES, short])
    assert code == 1
    assert "Case short: its transcript has 1 replies" in capsys.readouterr().err
    assert len(rows_of(out)) == len(CASES)


@pytest.mark.parametrize(
    "more, said",
    [
        (["--option", "rounds"], "expected KEY=VALUE"),
        (["--workers", "0"], "--workers: expected at least 1"),
        (["--transcripts", "none.jsonl"], "none.jsonl: cannot be read"),
        (["--transcripts", "."], "has no results of a run"),
        (["--out", "none/out.jsonl"], "--out: expected a file in a folder"),
    ],
)
def test_bad_input(adding, tmp_path, monkeypatch, capsys, more, said):
    monkeypatch.chdir(tmp_path)
    code, _ = play(tmp_path, CASES, *more)
    assert code == 2
    assert said in capsys.readouterr().err


def test_options_reach_the_task(adding, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        replay, "make_task", lambda n, settings: seen.append(settings) or Adding(0)
    )
    play(tmp_path, CASES, "--option", "rounds=8", "--backend", "server", "--data", "x")
    assert seen[0].options == {"rounds": 8, "backend": "server", "data": "x"}
