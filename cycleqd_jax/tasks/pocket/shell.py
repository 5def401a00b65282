"""Pocket shell: one bash command in a prepared folder, judged by what it did.

A problem compares either what the command printed or all files and folders it left
behind. The exit status, standard error, blanks at the end of a line and empty lines at
the end do not count. The expected text or files stay here.
"""

from collections.abc import Mapping

from cycleqd_jax.sandbox.base import Execution, Program, Sandbox
from cycleqd_jax.tasks.base import Problem
from cycleqd_jax.tasks.pocket.episode import (
    HARD_TOKENS,
    LIMITS,
    PocketTask,
    why_stopped,
)
from cycleqd_jax.tasks.pocket.shell_hard_loops import LOOPS
from cycleqd_jax.tasks.pocket.shell_hard_pipelines import PIPELINES
from cycleqd_jax.tasks.pocket.shell_held_out import HELD_OUT
from cycleqd_jax.tasks.pocket.shell_templates import TEMPLATES


class PocketOs(PocketTask):
    """Operate a shell with one bash command."""

    name = "pocket_os"
    answer_tag = "bash"
    inspection_tag = "look"
    inspection_hint = " You may first run one in a ```look block."
    templates = (*TEMPLATES, *HELD_OUT)

    async def judge(self, problem: Problem, answer: str, sandbox: Sandbox) -> str:
        """Runs the command in the problem's folder."""
        data = problem.data
        by_files = data["judged_by"] == "files"
        execution = await sandbox.run(command_program(data["files"], answer, by_files))
        if reason := why_stopped(execution):
            return reason
        if by_files:
            return _compare_files(data["expected"], execution)
        printed = execution.stdout.decode("utf-8", "replace")
        wanted = _normal(data["expected"])
        match data["judged_by"]:
            case "lines":
                right = _normal(printed) == wanted
            case "set":
                right = sorted(map(_path, _normal(printed))) == sorted(wanted)
            case "columns":
                right = [r.split() for r in _normal(printed)] == [
                    r.split() for r in wanted
                ]
            case "number":  # `wc -l FILE` prints the file's name too
                number, *names = printed.split() or [""]
                right = [number] == wanted and names in (
                    [],
                    *([f] for f in data["files"]),
                )
            case other:
                raise ValueError(f"{problem.id} is judged by {other!r}.")
        return "" if right else f"It printed {printed!r:.120}."

    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Runs a command in a copy of the folder and returns what it printed."""
        execution = await sandbox.run(
            command_program(problem.data["files"], action, False)
        )
        if reason := why_stopped(execution):
            return reason
        output = execution.stdout if execution.stdout.strip() else execution.stderr
        return output.decode("utf-8", "replace")

    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """A look at the folder."""
        entries = {path.partition("/")[0] for path in problem.data["files"]}
        return "ls", "\n".join(sorted(entries))


class PocketOsHard(PocketOs):
    """Operate a shell with a pipeline, a loop or commands in a row."""

    name = "pocket_os_hard"
    templates = (*PIPELINES, *LOOPS)
    tokens_by_turns = HARD_TOKENS


def command_program(files: Mapping[str, str], command: str, collect: bool) -> Program:
    """A bash command in a prepared folder.

    Args:
      files: path -> text; a path that ends with a slash is an empty folder.
      command: what bash is told.
      collect: whether its execution has the files that it left behind.
    """
    contents = tuple((path, text.encode()) for path, text in sorted(files.items()))
    return Program(("bash", "-c", command), b"", contents, collect, LIMITS)


def _compare_files(expected: Mapping[str, str], execution: Execution) -> str:
    left = {p: c.decode("utf-8", "replace") for p, c in execution.files.items()}
    for path in sorted(expected.keys() | left.keys()):
        if path not in left:
            return f"{path} is missing afterwards."
        if path not in expected:
            return f"{path} should not be there afterwards."
        if _normal(left[path]) != _normal(expected[path]):
            return f"{path} has other contents afterwards."
    return ""


def _normal(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _path(line: str) -> str:
    return line.removeprefix("./")
