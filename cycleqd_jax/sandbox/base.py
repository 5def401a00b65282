"""The interface of sandboxes: they take a program and limits, and report its end.

Code that a model wrote never runs in our process or with our rights. A `Sandbox` runs a
`Program` in a fresh scratch folder and returns an `Execution`.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Limits:
    """Resource limits of one program.

    Attributes:
      cpu_s: CPU seconds, of all processes together if the sandbox can count them, else
        of each. Verdicts depend on this limit, not on the machine's load.
      wall_s: wall-clock seconds; generous, for programs that wait.
      memory_bytes: address space of each process, and memory of all processes together
        if the sandbox can count it.
      processes: processes and threads at once.
      open_files: file descriptors of each process.
      file_bytes: size of each file.
      scratch_bytes: size of the scratch folder.
      scratch_entries: files and folders in it; a program that creates more is stopped.
      output_bytes: of standard output and of standard error; a program that writes more
        is stopped.
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
      argv: the command, found on the sandbox's PATH, and its arguments.
      stdin: bytes on standard input.
      files: (path, content) pairs to write into the scratch folder before the start.
        Folders are created as needed; a path with a trailing slash and no content is an
        empty folder. A path that leaves the scratch folder is a `ValueError`.
      collect: whether to return the files that are in the scratch folder at the end.
      limits: resource limits.
    """

    argv: tuple[str, ...]
    stdin: bytes = b""
    files: tuple[tuple[str, bytes], ...] = ()
    collect: bool = False
    limits: Limits = Limits()


class Ending(enum.StrEnum):
    """The way a program ended."""

    EXITED = "exited"  # by itself, with `exit_code`
    SIGNALLED = "signalled"  # ended or stopped by a signal not sent for a limit
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    OUTPUT_LIMIT = "output_limit"
    MEMORY_LIMIT = "memory_limit"  # of all processes together
    ENTRIES_LIMIT = "entries_limit"  # too many files and folders


@dataclasses.dataclass(frozen=True)
class Execution:
    """The result of one program.

    Attributes:
      ending: how it ended.
      exit_code: its exit status if `ending` is EXITED, else None.
      stdout: standard output, at most `output_bytes`.
      stderr: standard error, at most `output_bytes`.
      files: path in the scratch folder -> content of each regular file at the end, if
        `Program.collect`. Symbolic links are left out; empty folders have a trailing
        slash and no content.
    """

    ending: Ending
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if the program exited with status 0."""
        return self.ending is Ending.EXITED and self.exit_code == 0


class Sandbox(Protocol):
    """Runs programs, several at once."""

    async def run(self, program: Program) -> Execution:
        """Runs `program` to its end or limit.

        Raises:
          SandboxError: the sandbox itself failed, also in retries.
        """
        ...

    async def close(self) -> None:
        """Stops running programs and removes all that was created."""
        ...
