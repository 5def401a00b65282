"""Pocket coding: write a small Python function, judged by hidden calls.

The answer is executed by a runner that calls the function on the problem's inputs and
writes what it returned in the closed encoding of `literal`. The expected outputs stay
here. What the answer prints, or does to the interpreter, can only change outputs.
"""

from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks.base import Problem
from cycleqd_jax.tasks.pocket import literal
from cycleqd_jax.tasks.pocket.coding_templates import TEMPLATES
from cycleqd_jax.tasks.pocket.episode import (
    PocketTask,
    python_program,
    why_stopped,
)

# The result is the last line of standard output, so what the answer prints before it
# does no harm. It is one string made before the write, so that a result is whole.
_RUNNER = """
import sys
{encoder}

def _main():
    scope = {{"__name__": "answer"}}
    try:
        exec(compile({answer!r}, "answer.py", "exec"), scope)
        function = scope[{function!r}]
        result = _encode([function(*call) for call in {calls!r}])
    except BaseException as err:
        message = type(err).__name__ + ": " + str(err)[:100]
        result = '{{"other":' + _text(message) + "}}"
    sys.__stdout__.write("\\n" + result + "\\n")


_main()
"""


class PocketCoding(PocketTask):
    """Write a Python function."""

    name = "pocket_coding"
    answer_tag = "python"
    inspection_tag = "test"
    inspection_hint = " You may first run code in a ```test block."
    templates = TEMPLATES
    protocol = (_RUNNER, literal.ENCODER, inspection_hint)

    async def judge(self, problem: Problem, answer: str, sandbox: Sandbox) -> str:
        """Calls the answer's function on the hidden inputs."""
        script = _RUNNER.format(
            encoder=literal.ENCODER,
            answer=answer,
            function=problem.data["function"],
            calls=problem.data["calls"],
        )
        execution = await sandbox.run(python_program(script))
        if reason := why_stopped(execution):
            return reason
        try:
            outputs = literal.decode(
                execution.stdout.rstrip(b"\n").rpartition(b"\n")[2]
            )
        except ValueError:
            return "It ended without a result."
        if isinstance(outputs, literal.Other):
            return f"It failed with {outputs.name}."
        expected = problem.data["expected"]
        if not isinstance(outputs, list) or len(outputs) != len(expected):
            return "It gave no list of results."
        for call, wanted, output in zip(
            problem.data["calls"], expected, outputs, strict=True
        ):
            if not literal.same(wanted, output):
                return f"For {call!r:.80} it returned {output!r:.80}."
        return ""

    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Runs a script and returns its output, or else the end of its error."""
        execution = await sandbox.run(python_program(action))
        if reason := why_stopped(execution):
            return reason
        if execution.ok:
            return execution.stdout.decode("utf-8", "replace")
        return execution.stderr.decode("utf-8", "replace").rstrip().rpartition("\n")[2]

    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """The right function, tried on one of the inputs."""
        # The first two calls are edge cases; of the others, one that is short to read.
        calls = list(zip(problem.data["calls"], problem.data["expected"], strict=True))
        call, expected = min(calls[2:], key=lambda pair: len(repr(pair)))
        arguments = ", ".join(repr(argument) for argument in call)
        action = f"{problem.answer}\nprint({problem.data['function']}({arguments}))"
        return action, str(expected)
