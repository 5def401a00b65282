"""Verdicts of every scorer on right, wrong and hostile replies."""

import asyncio
import json

import pytest

from cycleqd_jax.chat import Reply
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings, reference
from cycleqd_jax.tasks.own.task import OwnTask

LONG = "x" * 20_001
RIGHT, WRONG, NONE = Outcome.SOLVED, Outcome.WRONG, Outcome.BAD_ACTION


@pytest.fixture
def make(tmp_path):
    def make_task(row, scorer, **options):
        path = tmp_path / "data.jsonl"
        path.write_text(json.dumps({"q": "?", **row}))
        given = {"jsonl": str(path), "prompt": "{q}", "answer": "a", "scorer": scorer}
        settings = TaskSettings(sizes={Split.TEST: 1}, options=given | options)
        return OwnTask("mine", settings)

    return make_task


def alone(task, episodes):
    """Plays episodes of a scorer that needs no sandbox."""

    async def play_one(problem, reply):
        async def chat(messages):
            return Reply(reply)

        return await task.run(problem, chat, None)

    return [asyncio.run(play_one(problem, reply)) for problem, (reply,) in episodes]


@pytest.fixture
def outcomes(play):
    def of(task, replies):
        (problem,) = task.problems(Split.TEST)
        in_sandbox = task.options.scorer in ("regex", "python_tests", "bash_check")
        results = (play if in_sandbox else alone)(
            task, [(problem, [reply]) for reply in replies]
        )
        assert all(len(result.answer) <= 4000 for result in results)
        assert not any("\0" in result.answer for result in results)
        return [result.outcome for result in results]

    return of


COUNTRIES = {"a": "New York", "c": ["York", "New York", "Newark"]}
EXACT = [("Paris", RIGHT), (" Paris.\n", RIGHT), ("paris", WRONG), ("", NONE),
         ("Paris!", WRONG), ("It is Paris", WRONG), ("Par\0is\x1b[2J", WRONG),
         ("P\ud800", WRONG), (LONG, NONE)]  # fmt: skip
CONTAINS = [("It's PARIS, France.", RIGHT), ("Parisian", WRONG), ("", NONE),
            ("Lyon", WRONG), (LONG, NONE)]  # fmt: skip
NUMBER = [("1,200", RIGHT), ("It is 1200.0 dollars.", RIGHT), ("3 then 1.2e3", RIGHT),
          ("$1200!", RIGHT), ("1200 of 1300", WRONG), ("none", NONE),
          ("\N{MINUS SIGN}1200", WRONG),
          ("A1200", NONE), ("9" * 61, NONE), ("1e999", WRONG), ("1e9999", WRONG),
          ("1,200," * 3000, RIGHT), ("", NONE), (LONG, NONE)]  # fmt: skip
CHOICE = [("New York", RIGHT), ("**new york**.", RIGHT), ("York", WRONG),
          ("It must be New York, I think.", RIGHT), ("York or New York", NONE),
          ("York? No, the answer is New York.", RIGHT), ("B", NONE), ("", NONE),
          ("Yorkshire", NONE), ("\0\x1b", NONE), (LONG, NONE)]  # fmt: skip
LETTERS = [("B", RIGHT), ("(b)", RIGHT), ("B) New York", RIGHT), ("C. Newark", WRONG),
           ("The answer is B because A is small", RIGHT), ("Z", NONE),
           ("A thing of New York", RIGHT)]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "scorer", "options", "cases"),
    [
        ({"a": "Paris"}, "exact", {}, EXACT),
        ({"a": ["Paris", "Lyon"]}, "exact", {}, [("Lyon", RIGHT), ("Lyo", WRONG)]),
        ({"a": "Cafe\u0301"}, "exact", {}, [("Caf\xe9", RIGHT)]),
        ({"a": "Paris"}, "contains", {"ignore_case": True}, CONTAINS),
        ({"a": "C++"}, "contains", {}, [("in C++20", RIGHT), ("in C+", WRONG)]),
        ({"a": "so 7 * 171 + 3\n#### 1,200"}, "number", {}, NUMBER),
        ({"a": 200}, "number", {"tolerance": 0.01}, [("202", RIGHT), ("203", WRONG)]),
        (COUNTRIES, "choice", {"choices": "c"}, CHOICE),
        (COUNTRIES, "choice", {"choices": "c", "prompt": "{q}\n{c}"}, LETTERS),
        (
            {"a": "no"},
            "choice",
            {"choices": ["yes", "no"]},
            [("No, it is not.", RIGHT)],
        ),
        ({"a": "b"}, "choice", {"choices": ["a", "b"]}, [("b", RIGHT), ("a", WRONG)]),
    ],
)
def test_texts(make, outcomes, row, scorer, options, cases):
    task = make(row, scorer, **options)
    replies = [reply for reply, _ in cases]
    assert dict(zip(replies, outcomes(task, replies), strict=True)) == dict(cases)
    (problem,) = task.problems(Split.TEST)
    right = reference(task, problem)[-1]["content"]
    assert outcomes(task, [right]) == [RIGHT]


def test_choices_are_shown_with_letters(make):
    task = make(COUNTRIES, "choice", choices="c", prompt="{q}\n{c}\nLetter:")
    (problem,) = task.problems(Split.TEST)
    assert problem.prompt == "?\nA) York\nB) New York\nC) Newark\nLetter:"
    assert problem.answer == "B"


def test_regular_expressions(make, outcomes):
    task = make({"a": r"^\d{3}-\d{4}$"}, "regex")
    cases = {
        "555-1234": RIGHT,
        "555-1234.": WRONG,
        "": NONE,
        "\0\x1b[31m": WRONG,
        LONG: NONE,
    }
    assert outcomes(task, cases) == list(cases.values())
    (problem,) = task.problems(Split.TEST)
    assert reference(task, problem) is None
    row = {"a": "^(a+)+$", "r": "aa"}
    catastrophe = make(row, "regex", ignore_case=True, reply="r")
    assert outcomes(catastrophe, ["a" * 60 + "!", "A" * 60]) == [WRONG, RIGHT]
    (problem,) = catastrophe.problems(Split.TEST)
    assert catastrophe.dialogue(problem)[-1]["content"] == "aa"


TESTS = ["assert double(2) == 4", "assert double('ab') == 'abab'"]
HOSTILE = [
    "import os\nos._exit(0)",
    "class A:\n    __eq__ = lambda *_: True\ndef double(x):\n    return A()",
    "print('[4, \"abab\"]')\nraise SystemExit",
]


def test_python_tests(make, outcomes):
    row = {"a": TESTS, "code": "def double(x):\n    return x + x"}
    task = make(row, "python_tests", reply="code")
    (problem,) = task.problems(Split.TEST)
    right = task.dialogue(problem)[-1]["content"]
    assert right.startswith("```python\n")
    replies = [right, "def double(x): return 4", *HOSTILE, "", "\0", LONG]
    wrong = [WRONG] * (1 + len(HOSTILE))
    assert outcomes(task, replies) == [RIGHT, *wrong, NONE, NONE, NONE]


def test_bash_check(make, outcomes):
    row = {
        "a": 'test -s count.txt && test "$(cat count.txt)" = 2 && ! test -e b.txt',
        "f": {"a.txt": "1\n2\n", "b.txt": "3\n"},
        "r": "wc -l < a.txt > count.txt; rm b.txt",
    }
    task = make(row, "bash_check", files="f", reply="r")
    (problem,) = task.problems(Split.TEST)
    replies = [
        task.dialogue(problem)[-1]["content"],
        "```bash\necho 2 > count.txt && rm *b.txt\n```",
        "echo 3 > count.txt; rm b.txt",
        "rm -rf /",
        "yes",
        # Set-up files and programs of the command are not obeyed by the check.
        "printf 'exit 0' > .bashrc; printf 'exit 0' > .bash_profile; echo exit > test",
        "ln -s /etc/passwd count.txt; rm b.txt",
        "\0",
    ]
    assert outcomes(task, replies) == [RIGHT, RIGHT, *[WRONG] * 5, NONE]


def test_a_check_reads_what_the_command_printed(make, outcomes):
    task = make({"a": "grep -qx 12"}, "bash_check")
    assert outcomes(task, ["echo 12", "echo 123"]) == [RIGHT, WRONG]


@pytest.mark.parametrize("check", ["[ $(cat) = 12 ]", "n=$(cat); ((n == 12))"])
def test_a_check_obeys_no_text(check, make, outcomes):
    replies = ["echo 12", "echo 13", "echo '! 13'", "echo 'x[$(echo 0)]+12'"]
    assert outcomes(make({"a": check}, "bash_check"), replies) == [RIGHT, *[WRONG] * 3]


@pytest.mark.parametrize(
    ("row", "scorer", "options", "says"),
    [
        ({"a": "(a"}, "regex", {}, "line 1: the regular expression '\\(a' does not"),
        ({"a": "a" * 1001}, "regex", {}, "expected at most 1000"),
        ({"a": "many"}, "number", {}, "line 1: the answer is 'many'"),
        ({"a": "x"}, "choice", {"choices": ["y", "z"]}, "'x' is not among the choices"),
        ({"a": "y"}, "choice", {"choices": ["y", "Y "]}, "not all different"),
        ({"a": "y", "c": ["y"]}, "choice", {"choices": "c"}, "1 choices; expected 2"),
        ({"a": "y", "c": 3}, "choice", {"choices": "c"}, "'c' is int"),
        ({"a": "assert f(x"}, "python_tests", {}, "line 1: its tests are no Python"),
        ({"a": ""}, "python_tests", {}, "line 1: the answer is empty"),
        ({"a": "f(1)"}, "python_tests", {}, "another statement than assert"),
        ({"a": "assert f(g(1)) == 2"}, "python_tests", {}, "with literals"),
        ({"a": "assert f(1) == 2\nassert g(1) == 2"}, "python_tests", {}, "call f, g"),
        ({"a": " "}, "bash_check", {}, "line 1: the answer is empty"),
        ({"a": "x", "f": {"../x": ""}}, "bash_check", {"files": "f"}, "inside the scr"),
        ({"a": "x", "f": [1]}, "bash_check", {"files": "f"}, "its files are no object"),
    ],
)
def test_answers_that_are_refused(make, row, scorer, options, says):
    with pytest.raises(BadInputError, match=says):
        make(row, scorer, **options)
