"""What holds for the skills of particular settings as it does for the three first."""

import collections
import dataclasses
import itertools
import random

import pytest

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings, opening, reference
from cycleqd_jax.tasks.pocket import _dialect
from cycleqd_jax.tasks.pocket.composite import as_rows
from cycleqd_jax.tasks.registry import BUILT_IN, NAMES, make_task, task_class

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT x FROM c"
HOSTILE = {
    "pocket_regex": [
        "(a+)+" * 20 + "$",
        "(",
        "a{99999999999}",
        "\x1b[2J",
        "x" * 3999,
    ],
    "pocket_dialect_a": [
        "cut",
        "cut -1 2",
        "cut 0 9999999",
        "add 1" + " | add 1" * 50,
        "__import__('os')",
        "add ²",
        "|",
        "put 1 True",
    ],
    "pocket_dialect_b": ["cut 0 3", "drop 99", "sort |", "add 1.0", "'''", "\\"],
    "pocket_sqlshell": [
        "yes",
        "rm *",
        "while true; do :; done",
        "sqlite3",
        "'unclosed",
        "printf x > *.db",
        "sqlite3 *.db '.shell rm *'",
        "kill -9 -1",
        f"sqlite3 *.db '{ENDLESS}'",
    ],
    "pocket_pysql": [
        "while True: pass",
        "import os; os._exit(0)",
        "1 / 0",
        "raise SystemExit",
        "print('[[1], []]')",
        "import values; values.encode = lambda v: '[]'",
        f"list(sqlite3.connect(':memory:').execute('{ENDLESS}'))",
        "exec('x' * 3000)",
    ],
}


def held_out(task) -> set[str]:
    return {template.id for template in task.templates if template.held_out}


def templates_in(task, split) -> collections.Counter:
    return collections.Counter(p.data["template"] for p in task.problems(split))


def once_each(task, split=Split.TEST):
    """One problem of every template."""
    return list({p.data["template"]: p for p in task.problems(split)}.values())


def test_they_are_known_by_name_and_none_is_a_default(more_task):
    assert more_task.name in NAMES and more_task.name not in BUILT_IN
    assert type(make_task(more_task.name, TaskSettings())) is type(more_task)


def test_templates_are_many_and_some_are_held_out(more_task):
    ids = [template.id for template in more_task.templates]
    assert len(set(ids)) == len(ids)
    trained = len(ids) - len(held_out(more_task))
    least = (20, 8) if more_task.never_gold else (40, 20)
    assert (trained, len(held_out(more_task))) >= least
    assert len(held_out(more_task)) >= least[1]


def test_splits_share_nothing_and_train_lacks_the_held_out(more_task, right_replies):
    seen = collections.defaultdict(set)
    for split in Split:
        for problem in more_task.problems(split):
            seen[problem.prompt].add(split)
            seen[right_replies(more_task, problem)[-1]].add(split)
    assert all(len(splits) == 1 for splits in seen.values())
    assert not held_out(more_task) & templates_in(more_task, Split.TRAIN).keys()
    for split in (Split.OPTIMISE, Split.VALIDATE, Split.TEST):
        every = {template.id for template in more_task.templates}
        assert templates_in(more_task, split).keys() == every


def test_problems_depend_on_seed_and_template_alone(more_task):
    kind = type(more_task)
    shorter = kind(TaskSettings(0, {Split.TEST: 20}))
    assert shorter.problems(Split.TEST) == more_task.problems(Split.TEST)[:20]
    same = kind(TaskSettings(0, {Split.TEST: 20}))
    other = kind(TaskSettings(1, {Split.TEST: 20}))
    two = kind(TaskSettings(0, {Split.TEST: 20}, turns=2))
    assert same.fingerprint == shorter.fingerprint
    assert len({t.fingerprint for t in (same, other, two)}) == 3


def test_hundreds_of_problems_exist(more_task):
    large = type(more_task)(TaskSettings(0, {Split.TEST: 300}))
    assert len({p.prompt for p in large.problems(Split.TEST)}) == 300


def test_right_answers_of_each_template_are_solved(more_task, play, right_replies):
    problems = once_each(more_task)
    results = play(more_task, [(p, right_replies(more_task, p)) for p in problems])
    wrong = [
        (p.prompt, right_replies(more_task, p), r.explanation)
        for p, r in zip(problems, results, strict=True)
        if r.outcome is not Outcome.SOLVED
    ]
    assert not wrong


def test_other_answers_fail(more_task, play, right_replies):
    """Of the next template, and of the same one with other names and constants."""
    problems = once_each(more_task)
    others = problems[1:] + problems[:1]
    known = [p for split in list(Split)[1:] for p in more_task.problems(split)]
    same = sorted(known, key=lambda p: p.data["template"])
    pairs = (
        list(zip(problems, others, strict=True))
        + [
            (p, q)
            for p, q in itertools.pairwise(same)
            if p.data["template"] == q.data["template"]
        ][:60]
    )
    pairs = [(p, right_replies(more_task, q), right_replies(more_task, p))
             for p, q in pairs]  # fmt: skip
    pairs = [(p, wrong) for p, wrong, right in pairs if wrong != right]
    results = play(more_task, pairs)
    assert len(pairs) > 60
    assert sum(r.score for r in results) / len(results) < 0.05


def test_hostile_answers_are_wrong_and_nothing_worse(more_task, play):
    problems = more_task.problems(Split.TEST)[:2]
    answers = HOSTILE[more_task.name]
    results = play(more_task, [(p, [a]) for p in problems for a in answers])
    for result in results:
        assert result.outcome is Outcome.WRONG, result.answer
        assert result.explanation and "\n" not in result.explanation


def test_the_sandbox_never_gets_the_expectation(more_task, in_sandbox, right_replies):
    """What the programs are given holds neither the answer nor what is expected."""

    class Watching:
        def __init__(self, inner):
            self.inner = inner
            self.seen = b""

        async def run(self, program):
            files = [content for path, content in program.files if path == "main.py"]
            self.seen += b"".join([repr(program.argv).encode(), program.stdin, *files])
            return await self.inner.run(program)

    keys = {"expected", "returned", "lines", "after"}
    for problem in once_each(more_task)[:6]:
        watching = Watching(None)

        async def judge(sandbox, problem=problem, watching=watching):
            watching.inner = sandbox
            return await more_task.judge(problem, "true", watching)

        assert in_sandbox(judge)
        right = right_replies(more_task, problem)[-1].split("\n")[-2].strip()
        assert right.encode() not in watching.seen
        # A query leaves the table as the program was given it.
        secrets = [one for key in keys & problem.data.keys()
                   for one in problem.data[key]
                   if one not in problem.data.get("tables", ())]  # fmt: skip
        for told in (repr(one).encode() for one in secrets):
            assert len(told) < 12 or told not in watching.seen


def test_a_broken_sandbox_is_no_verdict(more_task, script, in_sandbox):
    class Gone:
        async def run(self, program):
            raise SandboxError("bubblewrap is gone.")

    problem = more_task.problems(Split.TEST)[0]
    with pytest.raises(SandboxError, match="gone"):
        in_sandbox(lambda _: more_task.run(problem, script("x"), Gone()))


def test_two_turns_follow_the_right_conversation(more_task, script, in_sandbox):
    """What comes back from the sandbox is what an expert would have learnt."""
    task = type(more_task)(TaskSettings(0, {Split.TEST: 6}, turns=2))
    for problem in task.problems(Split.TEST):
        right = task._right(problem)
        chat = script(right[2]["content"], right[4]["content"])
        result = in_sandbox(lambda s, p=problem, c=chat: task.run(p, c, s))
        assert result.outcome is Outcome.SOLVED and result.turns == 2
        assert chat.asked == [tuple(right[:2]), tuple(right[:4])]


@pytest.mark.parametrize("turns", [1, 2])
def test_composites_never_come_with_gold_answers(composite, right_replies, turns):
    sizes = dict.fromkeys(Split, 5)
    task = type(composite)(TaskSettings(0, sizes, turns))
    for split in Split:
        for problem in task.problems(split):
            assert problem.answer is None and reference(task, problem) is None
            answer = right_replies(task, problem)[-1].split("\n")[1]
            assert answer not in repr(problem)
            asked = opening(task, problem)
            assert asked[1]["content"] == problem.prompt and len(asked) == 2 * turns
            with pytest.raises(BadInputError, match="no gold answers to learn from"):
                task.dialogue(problem)
    with pytest.raises(BadInputError, match=f"task_settings.{task.name}"):
        type(task)(TaskSettings(options={"gold_answers": True}))


@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("name", [*BUILT_IN, "pocket_regex", "pocket_dialect_a"])
def test_gold_answers_can_be_withheld(name, turns, play, right_replies):
    """Verdicts stay; what a search or an expert could learn from is gone."""
    sizes = {Split.TRAIN: 3, Split.TEST: 3}
    options = {"gold_answers": False}
    known = task_class(name)(TaskSettings(0, sizes, turns))
    task = task_class(name)(TaskSettings(0, sizes, turns, options))
    for split in sizes:
        pairs = zip(task.problems(split), known.problems(split), strict=True)
        for problem, same in pairs:
            assert problem == dataclasses.replace(same, answer=None)
            assert reference(task, problem) is None
            assert opening(task, problem) == opening(known, same)
            with pytest.raises(BadInputError, match="set its gold_answers to true"):
                task.dialogue(problem)
    episodes = [(p, right_replies(task, p)) for p in task.problems(Split.TEST)]
    assert {r.outcome for r in play(task, episodes)} == {Outcome.SOLVED}
    assert task.fingerprint != known.fingerprint


def test_a_task_may_have_fewer_train_problems_than_the_others():
    sizes = {Split.TRAIN: 30, Split.TEST: 4}
    known = make_task("pocket_regex", TaskSettings(0, sizes))
    task = make_task("pocket_regex", TaskSettings(0, sizes, options={"train": 3}))
    assert task.problems(Split.TRAIN) == known.problems(Split.TRAIN)[:3]
    assert task.problems(Split.TEST) == known.problems(Split.TEST)
    assert task.fingerprint != known.fingerprint
    with pytest.raises(BadInputError, match=r"task_settings.pocket_regex.train"):
        make_task("pocket_regex", TaskSettings(options={"train": 0}))


def test_a_machine_without_the_sqlite3_program_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setattr("cycleqd_jax.tasks.pocket.sqlshell.SEARCH_PATH", str(tmp_path))
    with pytest.raises(BadInputError, match=r"needs the program sqlite3, .* apt-get"):
        make_task("pocket_sqlshell", TaskSettings())


def test_a_pattern_that_backtracks_for_ever_is_stopped(play, find_problem):
    task = make_task("pocket_regex", TaskSettings(0, {Split.TEST: 75}))
    problem = find_problem(task, "find_word")
    (result,) = play(task, [(problem, ["(.|.)+~"])])
    assert result.outcome is Outcome.WRONG
    assert result.explanation == "It used up its CPU time."


def test_what_is_returned_is_compared_as_rows():
    rows = [("Rex", 3), ("Milo", 4)]
    for value in (rows, tuple(rows), [list(row) for row in rows], dict(rows)):
        assert as_rows(value) == rows
    assert (
        as_rows(["Rex", "Milo"])
        == [("Rex",), ("Milo",)]
        == as_rows([("Rex",), ["Milo"]])
    )
    assert as_rows(7) == as_rows((7,)) == as_rows([7]) == [(7,)]
    for value in ([[["Rex"]]], object(), [object()], [{"Rex": 3}]):
        assert as_rows(value) is None


def test_the_dialects_conflict():
    """A right program of one is hardly ever right in the other, on the same demand."""
    both = [task_class(f"pocket_dialect_{d}") for d in "ab"]
    same = right = 0
    for a, b in zip(*(kind.templates for kind in both), strict=True):
        assert (a.id, a.held_out) == (b.id, b.held_out)
        for seed in range(6):
            one, two = (t.draw(random.Random(seed)) for t in (a, b))
            if one.prompt.replace("dialect A", "dialect B") != two.prompt:
                continue  # one had to draw again, for positions that its lists have
            same += 1
            data = two.make_data(random.Random(seed))
            cases = list(zip(data["lists"], data["expected"], strict=True))
            assert all(_made(two.answer, case) == wanted for case, wanted in cases)
            right += all(_made(one.answer, case) == wanted for case, wanted in cases)
    assert same > 300 and right / same < 0.02


def _made(program, numbers):
    try:
        return _dialect.run(program, numbers, "b")
    except ValueError:
        return None
