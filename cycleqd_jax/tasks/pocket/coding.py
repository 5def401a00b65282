"""Pocket coding: write a small Python function, judged by hidden calls.

A program in the sandbox executes the answer, calls its function on the problem's inputs
and writes what it returned, encoded by `cycleqd_jax.tasks.values`. The expected outputs
stay here, so whatever the answer prints or breaks can only change its own outputs.
"""

import math
from collections.abc import Sequence
from typing import Any

from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.base import Problem
from cycleqd_jax.tasks.pocket.coding_hard_lists import LISTS
from cycleqd_jax.tasks.pocket.coding_hard_texts import TEXTS
from cycleqd_jax.tasks.pocket.coding_held_out import HELD_OUT
from cycleqd_jax.tasks.pocket.coding_templates import TEMPLATES
from cycleqd_jax.tasks.pocket.episode import (
    HARD_TOKENS,
    PocketTask,
    python_program,
    why_stopped,
)

# The result is the last line of standard output, in one write, whatever the answer has
# printed: a list of outputs, or the text of an error.
_RUNNER = """
import sys
from values import encode

def _main():
    scope = {{"__name__": "answer"}}
    try:
        exec(compile({answer!r}, "answer.py", "exec"), scope)
        function = scope[{function!r}]
        outputs = [encode(function(*call)) for call in {calls!r}]
        result = "[" + ",".join(outputs) + "]"
    except BaseException as err:
        result = encode(type(err).__name__ + ": " + str(err)[:100])
    sys.__stdout__.write("\\n" + result + "\\n")


_main()
"""


class PocketCoding(PocketTask):
    """Write a Python function."""

    name = "pocket_coding"
    answer_tag = "python"
    inspection_tag = "test"
    inspection_hint = " You may first run code in a ```test block."
    templates = (*TEMPLATES, *HELD_OUT)

    async def judge(self, problem: Problem, answer: str, sandbox: Sandbox) -> str:
        """Calls the answer's function on the hidden arguments."""
        data = problem.data
        return await judge_calls(
            data["function"], data["calls"], data["expected"], answer, sandbox
        )

    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Runs a script and returns its output, or the last line of its error."""
        execution = await sandbox.run(python_program(action))
        if reason := why_stopped(execution):
            return reason
        if execution.ok:
            return execution.stdout.decode("utf-8", "replace")
        return execution.stderr.decode("utf-8", "replace").rstrip().rpartition("\n")[2]

    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """The right function, called with one of the arguments."""
        # The first two calls are edge cases; the shortest of the others is taken.
        calls = list(zip(problem.data["calls"], problem.data["expected"], strict=True))
        call, expected = min(calls[2:], key=lambda pair: len(repr(pair)))
        arguments = ", ".join(repr(argument) for argument in call)
        action = f"{problem.answer}\nprint({problem.data['function']}({arguments}))"
        return action, str(expected)


class PocketCodingHard(PocketCoding):
    """Write a Python function of several steps or composed operations."""

    name = "pocket_coding_hard"
    templates = (*LISTS, *TEXTS)
    tokens_by_turns = HARD_TOKENS


async def judge_calls(
    function: str,
    calls: Sequence[Sequence[Any]],
    expected: Sequence[Any],
    answer: str,
    sandbox: Sandbox,
) -> str:
    """Calls an answer's function and compares what it returns.

    Args:
      function: its name.
      calls: the arguments of each call, of built-in types.
      expected: what each call should return; see `same`.
      answer: Python code that defines the function.
      sandbox: runs it, without what is expected.

    Returns:
      Empty if all are right, else why not, in one line.
    """
    script = _RUNNER.format(answer=answer, function=function, calls=calls)
    execution = await sandbox.run(python_program(script))
    if reason := why_stopped(execution):
        return reason
    last_line = execution.stdout.rstrip(b"\n").rpartition(b"\n")[2]
    try:
        outputs = values.decode(last_line)
    except ValueError:
        return "It ended without a result."
    if isinstance(outputs, str):
        return f"It failed with {outputs}."
    if not isinstance(outputs, list) or len(outputs) != len(expected):
        return "It gave no list of results."
    for call, wanted, output in zip(calls, expected, outputs, strict=True):
        if not same(wanted, output):
            return f"For {call!r:.80} it returned {values.describe(output)}."
    return ""


def same(expected: Any, actual: Any) -> bool:
    """True if a decoded output is right.

    Types count: a list is no tuple, and a bool equals only a bool. An int and a float
    are compared by value; where either is a float, with a relative tolerance of 1e-6,
    since sums may be taken in any order. The order of a set or of a dict's keys does
    not count. NaN equals nothing.
    """
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(expected, int) and isinstance(actual, int):
        return expected == actual
    if isinstance(expected, (int, float)) and isinstance(actual, (int, float)):
        try:
            return math.isclose(expected, actual, rel_tol=1e-6)
        except OverflowError:  # an int that is larger than every float
            return False
    if type(expected) is not type(actual):
        return False
    if isinstance(expected, (list, tuple)):
        return len(expected) == len(actual) and all(map(same, expected, actual))
    if isinstance(expected, dict):
        return expected.keys() == actual.keys() and all(
            same(value, actual[key]) for key, value in expected.items()
        )
    return expected == actual
