"""An episode ends in a verdict, or stops the run."""

import asyncio
import types

import pytest

from cycleqd_jax.chat import Reply
from cycleqd_jax.errors import BadInputError, RunError, SandboxError
from cycleqd_jax.tasks.base import Outcome, Problem, Result, reference, run_episode

PROBLEM = Problem("own/test/3", "Say it.", "it")


class Failing:
    """Its environment fails so many times; then the reply is right."""

    name = "own"

    def __init__(self, failures, error=None):
        self.failures, self.error, self.asked = failures, error, []

    async def run(self, problem, chat, sandbox):
        self.asked.append((await chat([])).text)
        if self.error is not None:
            raise self.error
        if len(self.asked) <= self.failures:
            return Result(Outcome.ENV_ERROR, "", "the server is gone", 1)
        return Result(Outcome.SOLVED, "it", "Right.", 1)


def play(task):
    chats = []

    def make_chat():
        number = len(chats)

        async def chat(messages):
            return Reply(f"from chat {number}")

        chats.append(chat)
        return chat

    return asyncio.run(run_episode(task, PROBLEM, make_chat, None))


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_an_environment_error_is_tried_again_from_the_start(failures):
    task = Failing(failures)
    assert play(task).score == 1.0
    assert task.asked == [f"from chat {number}" for number in range(failures + 1)]


def test_an_environment_that_keeps_failing_stops_the_run():
    task = Failing(99)
    with pytest.raises(RunError) as caught:
        play(task)
    assert len(task.asked) == 3
    assert str(caught.value) == (
        "Task own, problem own/test/3: its environment failed 3 times, the last time "
        "with: the server is gone; mend it, then go on with --resume."
    )


def test_a_sandbox_error_is_not_tried_again():
    task = Failing(0, error=SandboxError("no more memory"))
    with pytest.raises(SandboxError, match="no more memory"):
        play(task)
    assert len(task.asked) == 1


def test_an_environment_error_has_no_score():
    with pytest.raises(ValueError, match="has no score: the server is gone"):
        _ = Result(Outcome.ENV_ERROR, "", "the server is gone", 1).score


def test_an_explanation_is_one_line_that_no_terminal_obeys():
    text = "got\t\x1b[2J\r\n\u202eevil\u200b\ud83d 5\u3000€, 世界"
    result = Result(Outcome.WRONG, "", text, 1)
    assert result.explanation == "got \\x1b[2J \\u202eevil\\u200b\\ud83d 5 €, 世界"


class Mistaken:
    """Its `run` does what a newcomer may do."""

    name = "own"

    def __init__(self, mistake):
        self._mistake = mistake

    async def run(self, problem, chat, sandbox):
        return self._mistake()


@pytest.mark.parametrize(
    "mistake, says",
    [
        (lambda: {}["it"], r"run raised KeyError: 'it' \(test_base\.py, line \d+\)"),
        (lambda: True, r"must return a .*Result, but returned True"),
        (lambda: Result("solved", "", "", 1), r"outcome must be .*Outcome, got 'solv"),
        (lambda: Result(Outcome.WRONG, None, "", 1), r"answer must be of type str"),
        (
            lambda: Result(Outcome.SCORED, "", "", 1, share=1.5),
            r"in \[0, 1\], got 1\.5",
        ),
        (lambda: Result(Outcome.WRONG, "", "", 1, metrics={"n": "1"}), r"'n' must be"),
    ],
)
def test_a_mistake_in_run_is_one_sentence(mistake, says):
    with pytest.raises(RunError, match=f"problem own/test/3: .*{says}.*start anew"):
        play(Mistaken(mistake))


@pytest.mark.parametrize(
    "found",
    ["it", [], [{"role": "user", "content": "a"}], [("user", "a"), ("assistant", "b")]],
)
def test_a_dialogue_that_is_none_is_refused(found):
    task = types.SimpleNamespace(name="own", dialogue=None)
    task.reference = lambda problem: found
    with pytest.raises(BadInputError, match=r"problem own/test/3: .* must return mess"):
        reference(task, PROBLEM)
