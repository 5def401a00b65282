"""The interface of sandboxes: they take a program and limits, and report its end.

Code that a model wrote never runs in our process or with our rights. A `Sandbox`
runs one `Program` from a fresh scratch folder and reports an `Execution`.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
      cpu_s: seconds of CPU time, all its processes together where the system counts
        them so, each process at least; verdicts depend on this limit, not on load.
      wall_s: seconds on the clock; generous, a guard against programs that wait.
      memory_bytes: address space of one process, and where the system counts it the
        memory that all its processes hold together.
      processes: how many processes and threads may exist at once.
      open_files: file descriptors of one process.
      file_bytes: size of any one file written.
      scratch_bytes: size of the whole scratch folder.
      scratch_entries: files and folders in it; a program that makes more is stopped.
      output_bytes: what is kept of standard output and of standard error, each; a
        program that writes more is stopped.
    """

    cpu_s: float = 2.0
    wall_s: float = 20.0
    memory_bytes: int = 512 * 2**20
    processes: int = 32
    open_files: int = 64
    file_bytes: int = 8 * 2**20
    scratch_bytes: int = 32 * 2**20
    scratch_entries: int = 2**14
    output_bytes: int = 64 * 2**10


@dataclasses.dataclass(frozen=True)
class Program:
    """One program to run.

    Attributes:
      argv: the command and its arguments; found on the sandbox's own PATH.
      stdin: bytes on standard input.
      files: (path relative to the scratch folder, content) pairs written before the
        start; folders are made as needed, and a path with a trailing slash and no
        content is an empty folder. A path that leaves the scratch folder is a
        `ValueError`.
      collect: True to return the files of the scratch folder as they were at the end.
      limits: what it may use.
    """

    argv: tuple[str, ...]
    stdin: bytes = b""
    files: tuple[tuple[str, bytes], ...] = ()
    collect: bool = False
    limits: Limits = Limits()


class Ending(enum.StrEnum):
    """How a program ended."""

    EXITED = "exited"  # by itself, with `exit_code`
    SIGNALLED = "signalled"  # by a signal that no limit of ours sent
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    OUTPUT_LIMIT = "output_limit"
    MEMORY_LIMIT = "memory_limit"  # of all processes; one alone gets an error instead
    ENTRIES_LIMIT = "entries_limit"  # too many files and folders


@dataclasses.dataclass(frozen=True)
class Execution:
    """What became of one program.

    Attributes:
      ending: how it ended.
      exit_code: its exit status where `ending` is EXITED, else None.
      stdout: at most `output_bytes` of what it wrote.
      stderr: likewise.
      files: path relative to the scratch folder -> content of each regular file at
        the end, where `Program.collect` asked for it; symbolic links are not followed
        and not listed. Empty folders are listed with a trailing slash and no content.
    """

    ending: Ending
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the program ended by itself with status 0."""
        return self.ending is Ending.EXITED and self.exit_code == 0


class Sandbox(Protocol):
    """Runs programs, several at a time."""

    async def run(self, program: Program) -> Execution:
        """Runs `program` to its end or limit.

        Raises:
          SandboxError: if the sandbox itself failed (bounded retries included).
        """
        ...

    async def close(self) -> None:
        """Stops what still runs and removes what was made."""
        ...
