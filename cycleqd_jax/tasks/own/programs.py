"""Scorers that run programs in the sandbox: regex, python_tests and bash_check.

A user's regular expression may take for ever on a model's text, so it too has the
sandbox's limit of CPU time.
"""

import ast
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.errors import show
from cycleqd_jax.sandbox import guards
from cycleqd_jax.sandbox.base import Program, Sandbox
from cycleqd_jax.sandbox.check import check_program
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.own.options import OwnOptions
from cycleqd_jax.tasks.own.rows import Row, as_text, field, value_of
from cycleqd_jax.tasks.own.scorers import NOTHING, Verdict
from cycleqd_jax.tasks.pocket.coding import PocketCoding, judge_calls, same
from cycleqd_jax.tasks.pocket.episode import (
    LIMITS,
    fenced,
    parse_reply,
    python_program,
    why_stopped,
)
from cycleqd_jax.tasks.pocket.shell import PocketOs, command_program

_LONGEST_PATTERN = 1000  # characters
_SEARCH = """
import json, re, sys, warnings

warnings.simplefilter("ignore")
pattern, flags, text = json.load(sys.stdin)
try:
    found = re.search(pattern, text, flags)
    print("found" if found else "not found")
except (RecursionError, MemoryError):
    print("not found")
"""
# Nothing that the command left is read as a set-up file of the check's programs, and
# none of it is a module of theirs.
_CHECK = ("env", "HOME=/nonexistent", "PYTHONSAFEPATH=1", "bash", "-c")


class ProgramScorer:
    """Judges replies by a program in the sandbox.

    Attributes:
      judged_with: the class whose source decides verdicts too, or None.
    """

    judged_with: type | None = None

    def __init__(self, options: OwnOptions):
        """Makes a scorer with the settings of a task."""
        self._options = options

    def read(self, row: Row) -> dict[str, Any]:
        """As `scorers.TextScorer.read`."""
        raise NotImplementedError

    def shown(self, data: Mapping[str, Any]) -> dict[str, str]:
        """As `scorers.TextScorer.shown`."""
        return {}

    def gold(self, data: Mapping[str, Any]) -> str | None:
        """None: the answer is no reply."""
        return None

    def reply(self, text: str) -> str:
        """A right reply as experts learn it."""
        return text

    async def judge(
        self, data: Mapping[str, Any], reply: str, sandbox: Sandbox
    ) -> Verdict:
        """The verdict on a reply of at most `scorers.LONGEST` characters.

        Raises:
          SandboxError: the sandbox failed, so there is no verdict.
        """
        raise NotImplementedError


class Regex(ProgramScorer):
    """The answer, a regular expression of Python, is found in the reply."""

    def read(self, row: Row) -> dict[str, Any]:
        """See `ProgramScorer.read`."""
        text = as_text(row, "the answer", value_of(row, "answer", self._options.answer))
        if not text:
            raise ValueError("the answer is empty")
        if len(text) > _LONGEST_PATTERN:
            raise ValueError(
                f"the regular expression has {len(text)} characters; expected at most "
                f"{_LONGEST_PATTERN}"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of forms that will change
                re.compile(text)
        except (re.error, OverflowError, RecursionError) as err:
            raise ValueError(
                f"the regular expression {show(text)} does not compile ({err})"
            ) from err
        return {"pattern": text}

    async def judge(
        self, data: Mapping[str, Any], reply: str, sandbox: Sandbox
    ) -> Verdict:
        """See `ProgramScorer.judge`."""
        flags = re.IGNORECASE if self._options.ignore_case else 0
        told = json.dumps([data["pattern"], int(flags), reply]).encode()
        program = python_program(_SEARCH)
        execution = await sandbox.run(
            Program(program.argv, told, program.files, limits=program.limits)
        )
        if reason := why_stopped(execution):
            return Verdict(reply, reason)
        right = execution.stdout.strip() == b"found"
        return Verdict(reply, "" if right else "The expression is not found in it.")


class PythonTests(ProgramScorer):
    """The reply is Python code; the answer has tests like `assert f(1, 2) == 3`."""

    judged_with = PocketCoding

    def read(self, row: Row) -> dict[str, Any]:
        """See `ProgramScorer.read`."""
        value = value_of(row, "answer", self._options.answer)
        lines = value if isinstance(value, list) else [value]
        text = "\n".join(as_text(row, "a test", line) for line in lines)
        try:
            tests = ast.parse(text).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
            raise ValueError(f"its tests are no Python ({err})") from err
        if not tests:
            raise ValueError("the answer is empty; expected tests")
        read = [_read_test(test) for test in tests]
        functions = list(dict.fromkeys(name for name, _, _ in read))
        if len(functions) > 1:
            raise ValueError(
                f"its tests call {', '.join(functions)}; expected one function"
            )
        return {
            "function": functions[0],
            "calls": [call for _, call, _ in read],
            "expected": [wanted for _, _, wanted in read],
        }

    def reply(self, text: str) -> str:
        """In a fenced block, if it has none."""
        return text if "```" in text else fenced("python", text.strip("\n"))

    async def judge(
        self, data: Mapping[str, Any], reply: str, sandbox: Sandbox
    ) -> Verdict:
        """See `ProgramScorer.judge`."""
        code = parse_reply(reply, "").text
        if not code:
            return Verdict("", NOTHING)
        wrong = await judge_calls(
            data["function"], data["calls"], data["expected"], code, sandbox
        )
        return Verdict(code, wrong)


class BashCheck(ProgramScorer):
    """The reply is a bash command; the answer is a command that checks what it did."""

    judged_with = PocketOs

    def read(self, row: Row) -> dict[str, Any]:
        """See `ProgramScorer.read`."""
        check = as_text(
            row, "the answer", value_of(row, "answer", self._options.answer)
        )
        if not check.strip():
            raise ValueError("the answer is empty; expected a bash command")
        files = {}
        if self._options.files is not None:
            files = field(row, "files", self._options.files)
        if isinstance(files, str):  # as CSV has it
            try:
                files = json.loads(files or "{}")
            except (ValueError, RecursionError) as err:
                raise ValueError(f"its files are no JSON ({err})") from err
        if not isinstance(files, dict) or not all(
            isinstance(text, str) for text in files.values()
        ):
            raise ValueError(
                "its files are no object; expected one like "
                '{"notes.txt": "text", "empty_folder/": ""}'
            )
        check_program(command_program(files, check, True))
        return {"check": check, "files": files}

    def reply(self, text: str) -> str:
        """In a fenced block, if it has none."""
        return text if "```" in text else fenced("bash", text.strip("\n"))

    async def judge(
        self, data: Mapping[str, Any], reply: str, sandbox: Sandbox
    ) -> Verdict:
        """See `ProgramScorer.judge`."""
        command = parse_reply(reply, "").text
        if not command:
            return Verdict("", NOTHING)
        done = await sandbox.run(command_program(data["files"], command, True))
        if reason := why_stopped(done):
            return Verdict(command, reason)
        check = await sandbox.run(
            Program(
                (*_CHECK, guards.begin(data["check"]) + data["check"]),
                done.stdout,
                tuple(sorted(done.files.items())),
                limits=LIMITS,
            )
        )
        if reason := why_stopped(check):
            return Verdict(command, f"The check did not end: {reason}")
        if check.ok:
            return Verdict(command, "")
        return Verdict(command, f"The check ended with status {check.exit_code}.")


def _read_test(test: ast.stmt) -> tuple[str, tuple[Any, ...], Any]:
    """Function, arguments and expected value of `assert f(1, 2) == 3`.

    Raises:
      ValueError: it is another statement.
    """
    match test:
        case ast.Assert(
            test=ast.Compare(
                left=ast.Call(func=ast.Name(id=name), args=args, keywords=[]),
                ops=[ast.Eq() | ast.Is()],
                comparators=[wanted],
            )
        ):
            try:
                call = tuple(ast.literal_eval(argument) for argument in args)
                expected = ast.literal_eval(wanted)
            except (ValueError, TypeError, RecursionError, MemoryError):
                pass  # some other expression than a literal
            else:
                _check_comparable(expected)
                return name, call, expected
    text = show(ast.unparse(test))
    raise ValueError(
        f"the test {text} is another statement than assert f(1, 2) == 3, with literals "
        "as arguments and as the result"
    )


def _check_comparable(expected: Any) -> None:
    """Refuses a value that `same` would not find in what a program wrote."""
    if not same(expected, values.decode(values.encode(expected).encode())):
        raise ValueError(
            f"the result {show(expected)} of a test is too long or of a kind that "
            "cannot be compared"
        )
