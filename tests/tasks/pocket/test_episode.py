"""Replies, turns and outcomes that the three skills share."""

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings
from cycleqd_jax.tasks.pocket.episode import (
    SYSTEM,
    Action,
    fenced,
    parse_reply,
)
from cycleqd_jax.tasks.registry import make_task


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("```python\ndef f():\n    return 1\n```", "def f():\n    return 1"),
        ("Here it is:\n\n```sql\nSELECT 1;\n```\nIt selects.", "SELECT 1;"),
        ("```\nls\n```\n```\nrm x\n```", "ls"),
        ("```bash\nls -a", "ls -a"),  # cut off
        ("```bash\nls -a\n``", "ls -a\n``"),
        ("    x = 1\n", "    x = 1"),
        ("ls -a\n", "ls -a"),
        ("Use ```ls -a``` here.", "ls -a"),
        ("``` Bash \nls```", "ls"),
        ("echo \ud800", "echo ?"),
    ],
)
def test_the_first_block_is_the_answer(reply, text):
    assert parse_reply(reply, "look") == Action(text, False)


@pytest.mark.parametrize("reply", ["```look\nls\n```", "First:\n```Look\nls"])
def test_the_tag_makes_an_inspection(reply):
    assert parse_reply(reply, "look") == Action("ls", True)


@pytest.mark.parametrize(
    "reply", ["", " \n", "```bash\n\n```", "```bash", "``````", "a\0b", "x" * 4001]
)
def test_nothing_usable(reply):
    assert parse_reply(reply, "look").text == ""


class NoSandbox:
    """Must not be asked for anything, or fails as a broken environment does."""

    async def run(self, program):
        raise SandboxError("bubblewrap is gone.")

    async def close(self):
        raise AssertionError


def run_without_sandbox(in_sandbox, task, script):
    problem = task.problems(Split.TEST)[0]
    return in_sandbox(lambda _: task.run(problem, script, NoSandbox()))


def test_dialogue_is_what_an_episode_asks(task, script, in_sandbox):
    problem = task.problems(Split.TEST)[0]
    chat = script(fenced(task.answer_tag, problem.answer))
    result = in_sandbox(lambda sandbox: task.run(problem, chat, sandbox))
    assert result.outcome is Outcome.SOLVED and result.score == 1.0
    assert result.turns == 1 and result.answer == problem.answer
    *asked, answer = task.dialogue(problem)
    assert chat.asked == [tuple(asked)]
    assert asked == [SYSTEM, {"role": "user", "content": problem.prompt}]
    assert answer["role"] == "assistant"


def test_the_verdict_is_filed_under_the_kind_of_template(task, script, in_sandbox):
    """So a report has one column for each kind, of all endings."""
    by_kind = {task.is_held_out(p): p for p in task.problems(Split.TEST)}
    for held_out, name in ((False, "trained templates"), (True, "held-out templates")):
        problem = by_kind[held_out]
        for reply, score in ((fenced(task.answer_tag, problem.answer), 1.0), ("", 0.0)):
            chat = script(reply)
            result = in_sandbox(lambda s, p=problem, c=chat: task.run(p, c, s))
            assert result.metrics == {name: score} and result.score == score


def test_an_empty_reply_is_a_bad_action(task, two_turn_task, script, in_sandbox):
    for each in (task, two_turn_task):
        result = run_without_sandbox(in_sandbox, each, script(" "))
        assert result.outcome is Outcome.BAD_ACTION
        assert result.score == 0.0 and result.answer == "" and result.turns == 1


def test_an_inspection_in_the_only_turn_is_the_round_limit(task, script, in_sandbox):
    reply = fenced(task.inspection_tag, "1")
    result = run_without_sandbox(in_sandbox, task, script(reply))
    assert result.outcome is Outcome.ROUND_LIMIT and result.turns == 1


def test_a_broken_sandbox_is_no_verdict(task, script, in_sandbox):
    with pytest.raises(SandboxError, match="gone"):
        run_without_sandbox(in_sandbox, task, script("SELECT 1;"))


def test_two_turns_follow_the_dialogue(two_turn_task, script, in_sandbox):
    """What comes back from the sandbox is what the training dialogue says."""
    first = {p.data["template"]: p for p in two_turn_task.problems(Split.TEST)}
    problems = list(first.values())[:20]
    dialogues = [two_turn_task.dialogue(problem) for problem in problems]
    chats = [script(d[2]["content"], d[4]["content"]) for d in dialogues]
    results = in_sandbox(
        lambda sandbox: [
            two_turn_task.run(problem, chat, sandbox)
            for problem, chat in zip(problems, chats, strict=True)
        ]
    )
    for result, chat, dialogue in zip(results, chats, dialogues, strict=True):
        assert result.outcome is Outcome.SOLVED and result.turns == 2
        assert chat.asked == [tuple(dialogue[:2]), tuple(dialogue[:4])]


def test_an_answer_may_come_in_the_first_of_two_turns(two_turn_task, play):
    problem = two_turn_task.problems(Split.TEST)[1]
    answer = two_turn_task.dialogue(problem)[-1]["content"]
    (result,) = play(two_turn_task, [(problem, [answer])])
    assert result.outcome is Outcome.SOLVED and result.turns == 1


def test_two_inspections_are_the_round_limit(two_turn_task, play):
    problem = two_turn_task.problems(Split.TEST)[2]
    look = two_turn_task.dialogue(problem)[2]["content"]
    (result,) = play(two_turn_task, [(problem, [look, look])])
    assert result.outcome is Outcome.ROUND_LIMIT
    assert result.score == 0.0 and result.turns == 2


def test_the_second_reply_may_be_wrong_or_unusable(two_turn_task, play):
    problem = two_turn_task.problems(Split.TEST)[3]
    look = two_turn_task.dialogue(problem)[2]["content"]
    wrong, bad = play(
        two_turn_task, [(problem, [look, "I do not know."]), (problem, [look, ""])]
    )
    assert (wrong.outcome, wrong.turns) == (Outcome.WRONG, 2)
    assert (bad.outcome, bad.turns) == (Outcome.BAD_ACTION, 2)


@pytest.mark.parametrize(
    ("name", "look", "says"),
    [
        ("pocket_coding", "while True: pass", "It used up its CPU time."),
        ("pocket_coding", "pass", "(no output)"),
        ("pocket_coding", "1 / 0", "ZeroDivisionError: division by zero"),
        ("pocket_coding", "print('a' * 300)", "a" * 200 + " ..."),
        ("pocket_db", "SELECT absent;", "SQLite says: no such column: absent."),
        ("pocket_db", "SELECT NULL, 1.5, 'a';", "|1.5|a"),
        ("pocket_os", "false", "(no output)"),
        ("pocket_os", "echo out; echo err >&2", "out"),
    ],
)
def test_what_an_inspection_tells(name, look, says, script, in_sandbox):
    task = make_task(name, TaskSettings(0, {Split.TEST: 5}, turns=2))
    problem = task.problems(Split.TEST)[4]
    chat = script(fenced(task.inspection_tag, look), "no answer")
    in_sandbox(lambda sandbox: task.run(problem, chat, sandbox))
    assert chat.asked[1][-1] == {"role": "user", "content": says}
