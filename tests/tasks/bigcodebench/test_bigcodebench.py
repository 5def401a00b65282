"""BigCodeBench: data and their errors, prompts, verdicts."""

import asyncio

import pytest

from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings
from cycleqd_jax.tasks.bigcodebench import data, judge
from cycleqd_jax.tasks.bigcodebench.task import BigCodeBench
from cycleqd_jax.tasks.registry import make_task as make_registered

from .conftest import FILES, ROWS, SORTED

ABSENT = SORTED | {"task_id": "BigCodeBench/7", "libs": "['no_such_module', 'os']"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"test": ...}, "line 2: the field 'test' is missing"),
        ({"libs": 3}, "line 2: the field 'libs' is int; expected str or list"),
        ({"libs": "os, sys"}, "line 2: libs of BigCodeBench/1 is 'os, sys'"),
        ({"libs": ["os.path"]}, "line 2: libs of BigCodeBench/1"),
        ({"task_id": "HumanEval/1"}, "line 2: task_id is 'HumanEval/1'; expected"),
        ({"task_id": "BigCodeBench/0"}, "line 2: BigCodeBench/0 is there twice"),
        ({"entry_point": "a b"}, "line 2: entry_point of BigCodeBench/1"),
        ({"test": "import unittest"}, "line 2: test of BigCodeBench/1 has no class"),
    ],
)
def test_a_damaged_row_is_named(make_task, fields, message):
    changed = {k: v for k, v in (FILES | fields).items() if v is not ...}
    with pytest.raises(BadInputError) as caught:
        make_task([SORTED, changed])
    assert message in str(caught.value)


def test_missing_data_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"BigCodeBench-v0.1.4.jsonl.*load_data"):
        make_registered("bigcodebench", TaskSettings(sizes={Split.TEST: 1}))
    kept = tmp_path / "bigcodebench" / "BigCodeBench-Hard-v0.1.4.jsonl"
    with pytest.raises(MissingDataError, match="bigcodebench-hard"):
        BigCodeBench(TaskSettings(options={"subset": "hard"}))
    kept.parent.mkdir()
    kept.write_text("{}\n")  # where the package keeps it
    with pytest.raises(BadInputError, match="'task_id' is missing"):
        BigCodeBench(TaskSettings(options={"subset": "hard"}))


def test_missing_libraries_are_refused_or_left_out(make_task):
    with pytest.raises(BadInputError, match=r"1 of the 2 .*python3.*no_such_module\)"):
        make_task([FILES, ABSENT])
    task = make_task([FILES, ABSENT], libraries="present")
    assert [p.id for p in task.problems(Split.TEST)] == ["BigCodeBench/1"]
    with pytest.raises(BadInputError, match="1 of the 1"):
        make_task([ABSENT], libraries="present")
    assert data.missing_libraries(["os", "no_such_module"]) == ("no_such_module",)


def test_it_is_no_task_of_a_search(make_task):
    with pytest.raises(BadInputError, match="name it in out_of_domain"):
        make_task(sizes={Split.OPTIMISE: 1})
    task = make_task(split="seeded")
    assert len(task.problems(Split.TEST)) == 1 and not task.problems(Split.OPTIMISE)
    assert task.fingerprint != make_task().fingerprint
    assert len(make_task().problems(Split.TEST)) == 2


@pytest.mark.parametrize("kind", ["instruct", "complete"])
def test_prompts_are_the_benchmarks(make_task, script, kind):
    """The texts of bigcodebench 0.2.5, `provider/utility.py` and `generate.py`."""
    task, chat = make_task(prompt=kind), script("")
    (first, _) = task.problems(Split.TEST)
    task._references = task._speed = task._sanitizer = _Known()
    asyncio.run(task.run(first, chat, None))
    asyncio.run(task.aclose())
    (user, beginning), options = chat.asked
    demand = (
        "Please provide a self-contained Python script that solves the following "
        "problem in a markdown code block:\n"
    )
    shown = {
        "instruct": f"{SORTED['instruct_prompt']}\n",
        "complete": f"```\n{SORTED['complete_prompt'].strip()}\n```\n",
    }
    assert user == {"role": "user", "content": demand + shown[kind]}
    assert beginning["content"].endswith("corresponding tests:\n```python\n")
    assert options.stop_strings == ("\n```",)
    answer = task.dialogue(first)[-1]["content"]
    assert answer.startswith(beginning["content"]) and answer.endswith("\n```")


class _Known:
    def close(self):
        pass

    async def sanitize(self, code, _):
        return code

    async def passes(self, *_):
        return True

    async def slowness(self, *_):
        return 1.0


def right(one):
    return one["complete_prompt"] + one["canonical_solution"]


LIES = """import os
def task_func(*_):
    os.write(1, b'{"tests": 3, "failed": []}')
    os._exit(0)
"""


def report(text):
    """An answer that writes its own report, wherever the real one goes."""
    return (
        "import os\nfor fd in range(3, 9):\n    try:\n"
        f"        os.write(fd, {text})\n"
        "    except OSError:\n        pass\nos._exit(0)\n"
    )


REPLIES = {
    "right": (SORTED, right(SORTED), True, "Right, 3 tests."),
    "right files": (FILES, right(FILES), True, "Right, 2 tests."),
    "imports of the prompt are there": (
        SORTED,
        "def task_func(numbers=[1, 2]):\n    shuffle(numbers)\n"
        "    return len(list(itertools.permutations(numbers)))\n",
        True,
        "Right",
    ),
    "wrong": (
        SORTED,
        "def task_func(numbers=[1, 2]):\n    return 2 + 0 * len(numbers)\n",
        False,
        "1 of 3 tests fail; test_four: AssertionError: 2 != 24",
    ),
    "raises": (FILES, "def task_func(path, text):\n    return 1 / 0\n", False,
               "2 of 2 tests fail"),
    "does not parse": (SORTED, "def task_func(:", False, "ALL: SyntaxError"),
    "exits": (SORTED, "import sys\nsys.exit(0)", False, "ALL: SystemExit"),
    "ends the process": (SORTED, LIES, False, "It ended the process"),
    "infinitely many tests": (SORTED, report(b'{"tests": 1e999, "failed": []}'), False,
                              "left no report"),
    "deep report": (SORTED, report("b'[' * 100_000"), False, "left no report"),
    "many lines": (SORTED, report(rb'{"tests": 1, "failed": [["a\nb", "c\nd"]]}'),
                   False, "1 of 1 tests fail; a b: c d"),
    "another name": (SORTED, "def other():\n    return 1\n", False, "tests fail"),
    "hangs": (SORTED, "while True:\n    pass", False, "It used up its CPU time."),
}  # fmt: skip


def test_verdicts(make_task, in_sandbox, monkeypatch):
    monkeypatch.setattr(judge, "_SPARE_S", 1.0)
    task = make_task()

    async def verdicts(sandbox):
        return {
            name: await task.verdict(task._own[one["task_id"]], code, 1.0, sandbox)
            for name, (one, code, _, _) in REPLIES.items()
        }

    got = in_sandbox(task, verdicts)
    for name, (_, _, wanted, said) in REPLIES.items():
        assert got[name].right == wanted, (name, got[name])
        assert said in got[name].explanation, (name, got[name])


def test_episodes(make_task, in_sandbox, script):
    """Code is taken out of replies as in the benchmark; the reference is run too."""
    broken = FILES | {"canonical_solution": "    return None"}
    task = make_task([SORTED, broken])
    first, second = task.problems(Split.TEST)
    body = right(SORTED).replace("    return", "    print(numbers)\n    return")
    talk = f"{body}\nprint(task_func())\ntask_func(3)\n```\nThis prints it."

    async def play(sandbox):
        return [
            await task.run(problem, script(text), sandbox)
            for problem, text in ((first, talk), (second, right(FILES)), (first, ""))
        ]

    good, odd, empty = in_sandbox(task, play)
    assert good.outcome is Outcome.SOLVED and good.metrics == {"reference": 1.0}
    assert "print(numbers)" in good.answer and "print(task_func" not in good.answer
    assert odd.outcome is Outcome.SOLVED and odd.metrics == {"reference": 0.0}
    assert empty.outcome is Outcome.BAD_ACTION and empty.score == 0


def test_ids_and_order(make_task):
    task = make_task()
    assert [p.id for p in task.problems(Split.TEST)] == [r["task_id"] for r in ROWS]
    row = {"task_id": "BigCodeBench/1", "solution": "x = 1"}  # as the package has it
    problem, replies = task.transcript(row)
    assert (problem.id, replies) == ("BigCodeBench/1", ("x = 1",))
    with pytest.raises(BadInputError, match="has no problem 'BigCodeBench/99'"):
        task.transcript(row | {"task_id": "BigCodeBench/99"})
    with pytest.raises(BadInputError, match="the field 'solution' is missing"):
        task.transcript({"task_id": "BigCodeBench/1"})
