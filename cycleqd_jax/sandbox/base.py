"""The interface of sandboxes: programs that run once, and shells that live on.

Code that a model wrote never runs in our process or with our rights. A `Sandbox` runs a
`Program` in a fresh scratch folder and returns an `Execution`; or it opens a `Shell`,
a small machine for one episode, in which commands run in turn.
"""

import contextlib
import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

from cycleqd_jax.sandbox.shell_output import KEPT_BYTES as KEPT_BYTES

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": _PATH, "HOME": "/root", "HOSTNAME": "box"}  # of a script
SHELL_ENVIRONMENT = {**ENVIRONMENT, "TERM": "xterm"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Resource limits of one program.

    Attributes:
      cpu_s: CPU seconds, of all processes together if the sandbox can count them, else
        of each. Verdicts depend on this limit, not on the machine's load.
      wall_s: seconds, as an idle machine would need if the sandbox can tell, else on
        the clock; generous, for programs that wait.
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
      argv: the command, found on the sandbox's PATH, and its arguments. With an
        argument that holds a NUL byte or half of a surrogate pair, or is too long for
        the kernel, it ends as REFUSED; a command like that is a `ValueError`.
      stdin: bytes on standard input.
      files: (path, content) pairs to write into the scratch folder before the start.
        Folders are created as needed; a path with a trailing slash and no content is an
        empty folder. A path that leaves the scratch folder is a `ValueError`. All have
        the same time.
      collect: whether to return the files that are in the scratch folder at the end.
      limits: resource limits.
    """

    argv: tuple[str, ...]
    stdin: bytes = b""
    files: tuple[tuple[str, bytes], ...] = ()
    collect: bool = False
    limits: Limits = Limits()

    def __post_init__(self):
        if isinstance(self.argv, str) or not all(isinstance(w, str) for w in self.argv):
            raise TypeError(f"Program.argv must be words, got {self.argv!r:.80}")
        if not isinstance(self.stdin, bytes | bytearray | memoryview):
            found = type(self.stdin).__name__
            raise TypeError(f"Program.stdin must be bytes, got a {found}; encode it")


class Ending(enum.StrEnum):
    """The way a program ended."""

    EXITED = "exited"  # by itself, with `exit_code`
    SIGNALLED = "signalled"  # ended or stopped by a signal not sent for a limit
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    OUTPUT_LIMIT = "output_limit"
    MEMORY_LIMIT = "memory_limit"  # of all processes together
    ENTRIES_LIMIT = "entries_limit"  # too many files and folders
    REFUSED = "refused"  # never started: no program can have such an argument


@dataclasses.dataclass(frozen=True)
class Execution:
    """The result of one program.

    Attributes:
      ending: how it ended.
      exit_code: its exit status if `ending` is EXITED, else None.
      stdout: standard output, at most `output_bytes`.
      stderr: standard error, at most `output_bytes`; the reason if it was REFUSED.
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


@dataclasses.dataclass(frozen=True)
class ShellLimits:
    """Limits of one shell, of all its processes together unless said otherwise.

    Attributes:
      cpu_s: seconds of processor time, from start to end.
      memory_bytes: what the processes hold, and the address space of each.
      processes: how many of one user there may be at once; all users, twice as many.
      open_files: of one process.
      file_bytes: of one file.
      scratch_bytes: of all files.
      scratch_entries: number of files and folders.
      terminals: pseudo terminals at once.
      judging_s: seconds, as an idle machine would need, for all that looks at it.
    """

    cpu_s: float = 120.0
    memory_bytes: int = 2**30
    processes: int = 128
    open_files: int = 256
    file_bytes: int = 2**26
    scratch_bytes: int = 2**27
    scratch_entries: int = 2**15
    terminals: int = 64
    judging_s: float = 60.0


DEFAULT_SHELL_LIMITS = ShellLimits()


@dataclasses.dataclass(frozen=True)
class Root:
    """The root file system of a shell.

    Attributes:
      overlay: whether the programs of the system can be changed, for the shell only;
        else /usr/bin and the like are read-only.
      image: a folder with a root file system, or None for the machine's own programs.
    """

    overlay: bool = False
    image: str | None = None


PLAIN_ROOT = Root()


@dataclasses.dataclass(frozen=True)
class ScriptRun:
    """The end of a script.

    Attributes:
      status: exit status, or minus the signal that ended it.
      ended: done, limit (its time was up), cpu or memory.
      output: standard output and error output as they came, its first `KEPT_BYTES`.
    """

    status: int
    ended: str
    output: bytes


@dataclasses.dataclass(frozen=True)
class Typed:
    """The end of something typed into a shell.

    Attributes:
      ended: done, limit (its time was up), exited (the shell has ended), cpu, memory.
      output: what was printed, its first `KEPT_BYTES`.
      valid: whether all that was printed is UTF-8.
    """

    ended: str
    output: bytes
    valid: bool


@dataclasses.dataclass(frozen=True)
class Look:
    """The needs of a script that judges. The shell decides how they are met.

    Attributes:
      tree: whether it looks at files of the episode.
      executable: whether it asks which files are executable.
      bashrc: whether it says `source ~/.bashrc`; no more than PATH comes from there.
      programs: name -> extended regular expression of each program of the episode that
        it runs; other output counts as a failure of the program.
      logins: whether it says `runuser -l NAME -c 'cat FILE'`.
      changed: files of the system whose permissions it looks at.
      sudo: whether it says `sudo whoami`. It fails where the episode gave sudo other
        settings than permissions.
    """

    tree: bool = True
    executable: bool = False
    bashrc: bool = False
    programs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    logins: bool = False
    changed: tuple[str, ...] = ()
    sudo: bool = False


PLAIN_LOOK = Look()


class Shell(Protocol):
    """A small machine for one episode, and then a look at what it left.

    First `script` and `start_shell`, then `type`, then `end`, then `look`.
    """

    async def script(self, language: str, code: str, *, limit_s: float) -> ScriptRun:
        """Runs a script (bash or python) that prepares the machine, in `/`."""
        ...

    async def start_shell(self, *, terminal: bool, limit_s: float) -> Typed:
        """Starts the login shell, on a terminal or on pipes."""
        ...

    async def type(self, code: str, *, limit_s: float) -> Typed:
        """Types into the shell, and waits until it is ready again or out of time."""
        ...

    async def remember(self) -> None:
        """Notes how the machine is before the episode begins."""
        ...

    async def end(self, *, keep_processes: bool = False) -> None:
        """Ends the episode: no process of it runs any more.

        Args:
          keep_processes: show them still to scripts that count processes.
        """
        ...

    async def look(
        self,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
        how: Look = PLAIN_LOOK,
    ) -> ScriptRun:
        """Runs a bash script that looks at what the episode left, in `/`.

        Nothing that the episode could write is executed or obeyed by it, but for what
        `how` names.
        """
        ...


class Sandbox(Protocol):
    """Runs programs and shells, several at once."""

    async def run(self, program: Program) -> Execution:
        """Runs `program` to its end or limit.

        Raises:
          SandboxError: the sandbox itself failed, also in retries.
        """
        ...

    async def close(self) -> None:
        """Stops running programs and removes all that was created."""
        ...

    def shell(
        self, root: Root = PLAIN_ROOT, limits: ShellLimits = DEFAULT_SHELL_LIMITS
    ) -> contextlib.AbstractAsyncContextManager[Shell]:
        """A fresh machine, gone with all that is in it when the context is left.

        Raises:
          SandboxError: it could not be started.
        """
        ...
