"""Pocket dialects: write a program for a list, in one of two dialects that conflict.

Prompts of the two tasks differ in one letter, and mostly a right program of one is
valid and wrong in the other (`_dialect` has the conventions). So an expert of one
unlearns the other, which experts of different skills do not. A program in the sandbox
interprets the answer and writes what it made of the hidden lists, encoded by
`cycleqd_jax.tasks.values`. The expected lists stay here.
"""

import pathlib
from typing import Any

from cycleqd_jax.sandbox.base import Program, Sandbox
from cycleqd_jax.tasks import programs, values
from cycleqd_jax.tasks.base import Problem
from cycleqd_jax.tasks.pocket import _dialect
from cycleqd_jax.tasks.pocket.dialect_templates import templates
from cycleqd_jax.tasks.pocket.episode import LIMITS, PocketTask, why_stopped

_RUNNER = """
from dialect import run
from values import encode

def _main():
    try:
        made = [run({answer!r}, numbers, {dialect!r}) for numbers in {lists!r}]
    except ValueError as err:
        made = str(err)
    print(encode(made))


_main()
"""
_INTERPRETER = ("dialect.py", pathlib.Path(_dialect.__file__).read_bytes())


class _PocketDialect(PocketTask):
    """Write a program for a list."""

    answer_tag = "list"
    inspection_tag = "try"
    inspection_hint = " You may first try one in a ```try block."

    async def judge(self, problem: Problem, answer: str, sandbox: Sandbox) -> str:
        """Interprets the answer on all hidden lists."""
        lists, expected = problem.data["lists"], problem.data["expected"]
        made = await _interpret(problem, lists, answer, sandbox)
        if isinstance(made, str):
            return made
        if len(made) != len(lists):
            return "It gave no list of results."
        for numbers, wanted, got in zip(lists, expected, made, strict=True):
            if got != wanted or not all(type(n) is int for n in got):
                return f"Of {numbers} it made {got!r:.80}."
        return ""

    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Interprets a program on the first list."""
        lists = problem.data["lists"][:1]
        made = await _interpret(problem, lists, action, sandbox)
        return made if isinstance(made, str) else _shown(lists, made)

    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """The right program, on the first list."""
        lists, expected = problem.data["lists"][:1], problem.data["expected"][:1]
        return problem.answer, _shown(lists, expected)


class PocketDialectA(_PocketDialect):
    """Positions count from 0, and the first step is done first."""

    name = "pocket_dialect_a"
    templates = templates("a")


class PocketDialectB(_PocketDialect):
    """Positions count from 1, and the last step is done first."""

    name = "pocket_dialect_b"
    templates = templates("b")


async def _interpret(
    problem: Problem, lists: Any, answer: str, sandbox: Sandbox
) -> list[Any] | str:
    """The answer's output for each list, or why there is none, in one line."""
    script = _RUNNER.format(
        answer=answer, dialect=problem.data["dialect"], lists=list(lists)
    )
    files = (("main.py", script.encode()), _INTERPRETER, programs.VALUES)
    execution = await sandbox.run(Program(programs.PYTHON, files=files, limits=LIMITS))
    if reason := why_stopped(execution):
        return reason
    try:
        made = values.decode(execution.stdout.strip())
    except ValueError:
        return "It ended without a result."
    if isinstance(made, str):
        return f"Not a program: {made}."
    return made if isinstance(made, list) else "It gave no list of results."


def _shown(lists: Any, made: Any) -> str:
    return "\n".join(f"{a} -> {b}" for a, b in zip(lists, made, strict=False))
