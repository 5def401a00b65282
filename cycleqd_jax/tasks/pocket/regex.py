"""Pocket regex: write one regular expression, judged by hidden strings.

A program in the sandbox applies the pattern with Python's `re` and writes what it
found, encoded by `cycleqd_jax.tasks.values`. A pattern that backtracks for too long
reaches the limit of CPU time. The expected results stay here.
"""

from typing import Any

from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.base import Problem
from cycleqd_jax.tasks.pocket.episode import PocketTask, python_program, why_stopped
from cycleqd_jax.tasks.pocket.regex_templates import TEMPLATES

# "match" says whether all of a string matches, "find" lists the matches in it.
_RUNNER = """
import re
from values import encode

def _main():
    try:
        pattern = re.compile({pattern!r})
        if {kind!r} == "match":
            found = [bool(pattern.fullmatch(text)) for text in {texts!r}]
        else:
            found = [[m.group() for m in pattern.finditer(text)] for text in {texts!r}]
    except (re.error, OverflowError, RecursionError, MemoryError) as err:
        found = str(err)[:150] or type(err).__name__
    print(encode(found))


_main()
"""


class PocketRegex(PocketTask):
    """Write a regular expression."""

    name = "pocket_regex"
    answer_tag = "regex"
    inspection_tag = "try"
    inspection_hint = " You may first try one in a ```try block."
    templates = TEMPLATES

    async def judge(self, problem: Problem, answer: str, sandbox: Sandbox) -> str:
        """Applies the pattern to all hidden strings."""
        texts, expected = problem.data["texts"], problem.data["expected"]
        found = await self._apply(problem, texts, answer, sandbox)
        if isinstance(found, str):
            return found
        if len(found) != len(texts):
            return "It gave no list of results."
        for text, wanted, got in zip(texts, expected, found, strict=True):
            if wanted is not got and (isinstance(wanted, bool) or wanted != got):
                return f"In {text!r:.60} it found {got!r:.60}."
        return ""

    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Applies a pattern to the first two strings and says what it found."""
        texts = problem.data["texts"][:2]
        found = await self._apply(problem, texts, action, sandbox)
        return found if isinstance(found, str) else _shown(texts, found)

    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """The right pattern, on the first two strings."""
        texts, expected = problem.data["texts"][:2], problem.data["expected"][:2]
        return problem.answer, _shown(texts, expected)

    async def _apply(
        self, problem: Problem, texts: Any, pattern: str, sandbox: Sandbox
    ) -> list[Any] | str:
        """The pattern's matches in each text, or why there are none, in one line."""
        script = _RUNNER.format(
            pattern=pattern, kind=problem.data["kind"], texts=list(texts)
        )
        execution = await sandbox.run(python_program(script))
        if reason := why_stopped(execution):
            return reason
        try:
            found = values.decode(execution.stdout.strip())
        except ValueError:
            return "It ended without a result."
        if isinstance(found, str):
            return f"Not a regular expression: {found}."
        return found if isinstance(found, list) else "It gave no list of results."


def _shown(texts: Any, found: Any) -> str:
    return "\n".join(f"{t}: {g}" for t, g in zip(texts, found, strict=False))
