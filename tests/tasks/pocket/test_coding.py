"""Hidden calls, and answers that attack their judge."""

import copy
import re

import pytest

from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings
from cycleqd_jax.tasks.pocket.coding import PocketCoding, PocketCodingHard, same


@pytest.fixture(scope="module")
def coding():
    return PocketCoding(TaskSettings(0, {Split.TEST: 128}))


def renamed(problem, body: str) -> str:
    """An answer with the function's name and signature in place of NAME and HEAD."""
    head = problem.answer.partition("\n")[0]
    return body.replace("HEAD", head).replace("NAME", problem.data["function"])


def outcomes(coding, play, problem, bodies):
    results = play(coding, [(problem, [renamed(problem, body)]) for body in bodies])
    return results


def test_other_right_ways_are_right(coding, play, find_problem):
    cases = {
        "sum_squares": "HEAD\n    total = 0\n    for n in ARG:\n"
        "        total += n ** 2\n"
        "    return float(total)",
        "evens": "NAME = lambda ARG: list(filter(lambda n: not n % 2, ARG))",
        "distinct": "import collections\nHEAD\n    ARG = list(dict.fromkeys(ARG))\n"
        "    ARG.sort()\n    return ARG",
        "mean": "from statistics import mean\nNAME = mean",
        "reverse": "HEAD\n    print('hello')\n    ARG.reverse()\n    return ARG\n"
        "print(NAME([1, 2]))",
    }
    episodes = []
    for template, body in cases.items():
        problem = find_problem(coding, template)
        argument = problem.answer.partition("(")[2].partition(")")[0]
        body = renamed(problem, body.replace("ARG", argument))
        episodes.append((problem, [f"```python\n{body}\n```"]))
    results = play(coding, episodes)
    assert [r.outcome for r in results] == [Outcome.SOLVED] * len(cases), results


def test_types_of_outputs_count(coding, play, find_problem):
    evens, contains = find_problem(coding, "evens"), find_problem(coding, "contains")
    argument = evens.answer.partition("(")[2].partition(")")[0]
    as_tuple = f"HEAD\n    return tuple(n for n in {argument} if n % 2 == 0)"
    as_iterator = f"HEAD\n    return (n for n in {argument} if n % 2 == 0)"
    as_number = contains.answer.replace("return ", "return 1 * (") + ")"
    results = play(
        coding,
        [
            (evens, [renamed(evens, as_tuple)]),
            (evens, [renamed(evens, as_iterator)]),
            (contains, [as_number]),
        ],
    )
    assert all(r.outcome is Outcome.WRONG for r in results)
    assert "(" in results[0].explanation and "<generator>" in results[1].explanation


HOSTILE = {
    "no function": "x = 1",
    "prose": "The function NAME adds numbers.",
    "exit with success": "import sys\nHEAD\n    sys.exit(0)",
    "exit at once": "raise SystemExit(0)",
    "hard exit": "import os\nos._exit(0)",
    "hard exit later": "import os\nHEAD\n    os._exit(0)",
    "killed": "import os\nos.kill(os.getpid(), 9)",
    "endless": "while True: pass",
    "endless later": "HEAD\n    while True: pass",
    "giant output": "print('x' * 10**8)",
    "giant text": "HEAD\n    return 'x' * 10**7",
    "giant number": "HEAD\n    return 7 ** 7 ** 6",
    "giant list": "HEAD\n    return [0] * 10**10",
    "nested": "HEAD\n    x = []\n    for _ in range(9999): x = [x]\n    return x",
    "recursion": "HEAD\n    return NAME(1, 1) or NAME(1)",
    "equal to all": "class E:\n    __eq__ = lambda s, o: True\nHEAD\n    return E()",
    "lying text": "class S(int):\n    __repr__ = lambda s: '[]'\nHEAD\n    return S()",
    "raises oddly": "class X(BaseException):\n    def __str__(self): raise self\n"
    "HEAD\n    raise X",
    "broken builtins": "import builtins\nbuiltins.type = builtins.len = None\n"
    "HEAD\n    return 0",
    "patched encoder": "import sys\nm = sys.modules['__main__']\n"
    "m._encode = lambda *a: '[true, true]'\nHEAD\n    return 0",
    "forged results": "print('[1, 2, 3]')\nimport os\nos._exit(0)",
    "no output": "import sys\nsys.__stdout__.close()\nHEAD\n    return 0",
    "surrogates": "HEAD\n    raise ValueError('\\ud800\\n' * 3)",
}


def test_hostile_answers_are_wrong_and_nothing_worse(coding, play, find_problem):
    problem = find_problem(coding, "sum_squares")
    results = outcomes(coding, play, problem, HOSTILE.values())
    for name, result in zip(HOSTILE, results, strict=True):
        assert result.outcome is Outcome.WRONG, name
        assert result.explanation and "\n" not in result.explanation, name
        result.explanation.encode()


SWAPS = [
    (" > ", " < "), (" > ", " >= "), (" < ", " <= "), (" < ", " > "), (" == ", " != "),
    (" + ", " - "), (" * ", " + "), ("max", "min"), ("min", "max"), ("[-", "["),
    ("reverse=True", "reverse=False"), ("% 2 == 0", "% 2 == 1"), ("all(", "any("),
    (" if ", " if not "), (" in ", " not in "), ("sum(", "max("), (" / ", " // "),
    ("[::-1]", "[:]"), ("startswith", "endswith"), ("[:", "["), ("set(", "("),
]  # fmt: skip


def near_misses(answer: str):
    """Answers with one mistake: another operator, or a constant off by one."""
    head, _, body = answer.partition("\n")
    for old, new in SWAPS:
        for match in re.finditer(re.escape(old), body):
            yield f"{head}\n{body[: match.start()]}{new}{body[match.end() :]}"
    for match in re.finditer(r"\d+", body):
        for change in (-1, 1):
            number = int(match[0]) + change
            yield f"{head}\n{body[: match.start()]}{number}{body[match.end() :]}"


def passes(problem, answer: str) -> bool:
    scope = {}
    try:
        exec(answer, scope)  # ours, so it needs no sandbox
        function = scope[problem.data["function"]]
        return all(
            same(expected, function(*copy.deepcopy(call)))
            for call, expected in zip(
                problem.data["calls"], problem.data["expected"], strict=True
            )
        )
    except (SyntaxError, TypeError, ValueError, LookupError, NameError):
        return False
    except (ZeroDivisionError, AttributeError):
        return False


def test_inputs_tell_near_misses_apart(coding):
    problems = coding.problems(Split.TEST)
    assert all(passes(problem, problem.answer) for problem in problems)
    cases = [(p, miss) for p in problems for miss in near_misses(p.answer)]
    survivors = {(p.data["template"], miss) for p, miss in cases if passes(p, miss)}
    assert len(cases) > 300
    # The sum from 0 is the sum from 1.
    assert {template for template, _ in survivors} <= {"sum_to"}


def test_inputs_of_the_harder_tier_tell_near_misses_apart():
    """But for the few that are right: nothing even lies between n > 4 and n > 5."""
    hard = PocketCodingHard(TaskSettings(0, {Split.TEST: 128}))
    problems = [p for p in hard.problems(Split.TEST) if "while" not in p.answer]
    assert all(passes(problem, problem.answer) for problem in problems)
    cases = [(p, miss) for p in problems for miss in near_misses(p.answer)]
    survivors = [(p.data["template"], miss) for p, miss in cases if passes(p, miss)]
    assert len(cases) > 900
    assert len(survivors) / len(cases) < 0.04
    assert not {"sum_map_where", "words_change", "dict_change"} & dict(survivors).keys()


def test_an_answer_that_lacks_a_step_is_wrong(play, find_problem):
    hard = PocketCodingHard(TaskSettings(0, {Split.TEST: 128}))
    lacks = {
        "sum_both": (r" and .*:", ":"),
        "list_map_where": (r"append\(.*\)", "append(n)"),
        "sum_before": (r"break", "continue"),
        "first_where": (r"    return [^n].*$", "    return 99"),
        "words_total": (r"\+= len", "= len"),
        "phrase_join": (r"\[::-1\]|sorted", ""),
        "dict_total": (r"return total.*", "return total"),
    }
    episodes = []
    for template, (part, instead) in lacks.items():
        problem = find_problem(hard, template)
        answer = re.sub(part, instead, problem.answer)
        assert answer != problem.answer
        episodes += [(problem, [problem.answer]), (problem, [answer])]
    outcomes = [result.outcome for result in play(hard, episodes)]
    assert outcomes == [Outcome.SOLVED, Outcome.WRONG] * len(lacks)


def test_no_answer_sees_what_it_is_judged_by(coding, in_sandbox, find_problem):
    """Everything the process can read holds inputs, and no expected output."""
    problem = find_problem(coding, "digit_sum")
    secret = repr(problem.data["expected"])
    programs = []

    class Watching:
        async def run(self, program):
            programs.append(program)
            return await self.inner.run(program)

    async def judge(sandbox):
        watching = Watching()
        watching.inner = sandbox
        return await coding.judge(problem, "print(open('main.py').read())", watching)

    assert in_sandbox(judge)
    (program,) = programs
    everything = repr((program.argv, program.stdin, program.files))
    assert repr(problem.data["calls"]) in everything and secret not in everything


def test_a_snooping_answer_finds_no_expectation(coding, play, find_problem):
    snoop = (
        "import gc, sys\n"
        "HEAD\n"
        "    frame, found = sys._getframe(), []\n"
        "    while frame:\n"
        "        found.append(sorted(frame.f_locals)); frame = frame.f_back\n"
        "    return [found, sys.argv, open('main.py').read()[-900:], sys.stdin.read()]"
    )
    problem = find_problem(coding, "digit_sum")
    (result,) = outcomes(coding, play, problem, [snoop])
    assert result.outcome is Outcome.WRONG
    assert "expected" not in result.explanation


def test_verdicts_do_not_depend_on_hash_seeds(coding, in_sandbox, find_problem):
    """The order of a set is the same in every run, so a verdict is too."""
    problem = find_problem(coding, "upper")
    answer = renamed(problem, "HEAD\n    return list(set('abcdefgh'))")
    reasons = {
        in_sandbox(lambda sandbox: coding.judge(problem, answer, sandbox))
        for _ in range(3)
    }
    assert len(reasons) == 1
