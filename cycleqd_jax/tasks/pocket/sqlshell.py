"""Pocket SQL in a shell: one bash command that asks a database file with sqlite3.

It is a composite of `pocket_os` and `pocket_db`, and has no expert and no gold answers.
The command runs in a folder with the database of one of the problem's tables, and must
be right for all of them. It is judged by what it printed, by a file that it wrote, or
by the table afterwards, which a second program in a sandbox of its own reads. The
expected lines and rows stay here.
"""

import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from typing import ClassVar

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.base import Execution, Program, Sandbox
from cycleqd_jax.sandbox.host import SEARCH_PATH
from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.base import Problem, TaskSettings
from cycleqd_jax.tasks.pocket.composite import as_rows, fill
from cycleqd_jax.tasks.pocket.db_tables import Row, same_rows
from cycleqd_jax.tasks.pocket.episode import (
    LIMITS,
    PocketTask,
    python_program,
    why_stopped,
)
from cycleqd_jax.tasks.pocket.sqlshell_templates import TEMPLATES

_PROGRAM = "sqlite3"
_MAX_ROWS = 100  # tables have nine rows, so more are wrong
_READER = """
import sqlite3
from values import encode

try:
    rows = sqlite3.connect("left.db").execute("SELECT * FROM {table}")
    print(encode(rows.fetchmany({max_rows})))
except sqlite3.Error as err:
    print(encode(str(err)[:150]))
"""


class PocketSqlShell(PocketTask):
    """Ask or change a database file with one bash command.

    Raises:
      BadInputError: the machine has no sqlite3 program.
    """

    name = "pocket_sqlshell"
    answer_tag = "bash"
    inspection_tag = "look"
    inspection_hint = " You may first run one in a ```look block."
    templates = TEMPLATES
    tokens_by_turns: ClassVar[Mapping[int, int]] = {1: 64, 2: 72}
    never_gold = True

    def __init__(self, settings: TaskSettings):
        super().__init__(settings)
        if shutil.which(_PROGRAM, path=SEARCH_PATH) is None:
            raise BadInputError(
                f"{self.name} needs the program {_PROGRAM}, which is not in "
                f"{SEARCH_PATH}; install it (on Debian and Ubuntu: sudo apt-get "
                f"install -y {_PROGRAM})."
            )

    async def judge(self, problem: Problem, answer: str, sandbox: Sandbox) -> str:
        """Runs the command on every database of the problem."""
        data = problem.data
        for rows, lines, after in zip(
            data["tables"], data["lines"], data["after"], strict=True
        ):
            execution = await sandbox.run(_command(problem, rows, answer))
            if reason := why_stopped(execution):
                return reason
            match data["judged_by"]:
                case "table":
                    reason = await _compare_table(problem, after, execution, sandbox)
                case "file":
                    text = execution.files.get(data["file"])
                    if text is None:
                        return f"{data['file']} is missing afterwards."
                    reason = _compare(lines, text, is_set=True)
                case kind:
                    reason = _compare(lines, execution.stdout, is_set=kind == "set")
            if reason:
                return reason
        return ""

    async def inspect(self, problem: Problem, action: str, sandbox: Sandbox) -> str:
        """Runs a command beside the first database and returns what it printed."""
        program = _command(problem, problem.data["tables"][0], action)
        execution = await sandbox.run(program)
        if reason := why_stopped(execution):
            return reason
        output = execution.stdout if execution.stdout.strip() else execution.stderr
        return output.decode("utf-8", "replace")

    def right_inspection(self, problem: Problem) -> tuple[str, str]:
        """A look at the folder."""
        return "ls", problem.data["database"]


def _command(problem: Problem, rows: Sequence[Row], command: str) -> Program:
    files = ((problem.data["database"], _database(problem, rows)),)
    collect = problem.data["judged_by"] in ("file", "table")
    return Program(("bash", "-c", command), b"", files, collect, LIMITS)


def _database(problem: Problem, rows: Sequence[Row]) -> bytes:
    """The bytes of a database file with one table."""
    connection = sqlite3.connect(":memory:")
    try:
        fill(connection, problem.data["schema"], rows)
        return connection.serialize()
    finally:
        connection.close()


async def _compare_table(
    problem: Problem, after: Sequence[Row], execution: Execution, sandbox: Sandbox
) -> str:
    """Empty if the table is right afterwards, else why not, in one line.

    The file may be anything by now, so it is opened in a sandbox.
    """
    name = problem.data["database"]
    if name not in execution.files:
        return f"{name} is missing afterwards."
    script = _READER.format(table=problem.data["schema"].table, max_rows=_MAX_ROWS)
    program = python_program(script)
    files = (*program.files, ("left.db", execution.files[name]))
    reading = await sandbox.run(
        Program(program.argv, b"", files, limits=program.limits)
    )
    if reason := why_stopped(reading):
        return reason
    try:
        found = values.decode(reading.stdout.strip())
    except ValueError:
        return "The database cannot be read afterwards."
    if isinstance(found, str):
        return f"SQLite says of the database afterwards: {found}."
    rows = as_rows(found)
    if rows is None or not same_rows(tuple(after), tuple(rows)):
        return "It left the table in another state."
    return ""


def _compare(lines: Sequence[str], output: bytes, *, is_set: bool) -> str:
    """Empty if the output has these lines, else what it was, in one line."""
    text = output.decode("utf-8", "replace")
    wanted, found = list(lines), [line.strip() for line in text.strip().split("\n")]
    if found == [""]:
        found = []
    if is_set:
        wanted, found = sorted(wanted), sorted(found)
    return "" if found == wanted else f"It gave {text!r:.120}."
