"""Shells in containers of Docker or Podman, for exact images.

A container has no network and lives as long as its episode; then all its processes are
frozen, and what it left is looked at from other containers (`container_look`).
"""

import asyncio
import concurrent.futures
import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Sequence

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox.base import (
    DEFAULT_SHELL_LIMITS,
    ENVIRONMENT,
    KEPT_BYTES,
    PLAIN_LOOK,
    SHELL_ENVIRONMENT,
    Look,
    ScriptRun,
    ShellLimits,
    Typed,
)
from cycleqd_jax.sandbox.container_command import Command
from cycleqd_jax.sandbox.container_engine import CALL_S, Engine
from cycleqd_jax.sandbox.container_leftovers import Watch, remove_leftovers
from cycleqd_jax.sandbox.container_look import Looking, as_text
from cycleqd_jax.sandbox.shell_mark import COMMAND, FIRST_LINE, Mark, Prompt
from cycleqd_jax.sandbox.shell_output import Output

# One stream: the engine does not keep the order of two.
_ONE_STREAM = ("bash", "-c", 'exec "$@" 2>&1 </dev/null', "bash")
# Types each line after the shell has read the one before, as a terminal hands them out:
# a shell in the shell may read as much as there is.
_RELAY = """
import fcntl, os, struct, subprocess, sys, threading, time
FIONREAD = 0x541B  # a small Python has no termios
shell = subprocess.Popen(sys.argv[1:], stdin=-1, stderr=-2, bufsize=0)
def type_lines():
    fd = shell.stdin.fileno()
    for line in sys.stdin.buffer:
        while struct.unpack("i", fcntl.ioctl(fd, FIONREAD, bytes(4)))[0]:
            time.sleep(0.001)
        try:
            while line:
                line = line[os.write(fd, line):]
        except OSError:
            break
threading.Thread(target=type_lines, daemon=True).start()
os._exit(shell.wait() & 255)
"""

_RELAYED = ("python3", "-I", "-S", "-c", _RELAY, *COMMAND)
_ON_TERMINAL = ("bash", "--login")


class Containers:
    """Starts containers.

    Args:
      image: name of the image.
      slots: containers at once.
      engine: the program and its first arguments, see `Engine`.
      limits: of each container, see `Engine`.

    Raises:
      BadInputError: no engine answers, or it lacks the image or what is needed.
    """

    def __init__(
        self,
        image: str,
        slots: int,
        engine: str | None = None,
        limits: ShellLimits = DEFAULT_SHELL_LIMITS,
    ):
        self._engine = Engine(image, engine, limits)
        self._limits = limits
        self._slots = slots
        self._free: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._watch = Watch(self._engine.words)
        try:
            remove_leftovers(self._engine.words)
            with concurrent.futures.ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, self._try()).result()
        except (OSError, ValueError, subprocess.SubprocessError, SandboxError) as error:
            raise BadInputError(
                f"sandbox: the backend container does not work here: {error}; choose "
                "another, or another engine"
            ) from error

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["ContainerShell"]:
        """Starts a container and removes it at the end.

        Raises:
          SandboxError: it could not be started.
        """
        loop = asyncio.get_running_loop()
        free = self._free.setdefault(loop, asyncio.Semaphore(self._slots))
        async with free:
            name = f"cycleqd-{os.getpid()}-{secrets.token_hex(6)}"
            shell = ContainerShell(self._engine, name, self._limits)
            try:
                await self._engine.start(name)
                yield shell
            finally:
                shell.close()
                await self._engine.remove(name)

    async def _try(self) -> None:
        """Looks at a container that was left as it was.

        Raises:
          SandboxError: that is not possible.
        """
        async with self.open() as shell:
            why = await shell.end()
            run = await shell.look("true", limit_s=CALL_S, how=Look(bashrc=True))
        if why or run.status:
            said = why or f"{run.ended}, {run.status}, {run.output[-300:]!r}"
            raise SandboxError(self._engine.failure(f"a try ended with {said}"))


class ContainerShell:
    """One container; see `base.Shell`.

    Args:
      engine: runs it.
      name: of the container.
      limits: of the episode.
    """

    def __init__(self, engine: Engine, name: str, limits: ShellLimits):
        self._engine = engine
        self._name = name
        self._shell: Command | None = None
        self._terminal = False
        self._looking: Looking | None = None
        self._left_s = limits.judging_s

    async def script(
        self,
        language: str,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
    ) -> ScriptRun:
        """Runs a script that prepares the container, in `/`; see `base.Shell`."""
        words = {"bash": ["bash", "-c", code, "--"], "python": ["python3", "-c", code]}
        given = map(as_text, arguments)
        command = self._engine.execute(
            self._name, (*_ONE_STREAM, *words[language], *given), ENVIRONMENT
        )
        try:
            async with asyncio.timeout(limit_s):
                output = await command.read(KEPT_BYTES)
                status = await command.ended()
            if status and (said := command.errors()):  # not the script's own
                raise SandboxError(self._engine.failure(said))
        except TimeoutError:
            return ScriptRun(-9, "limit", b"")
        finally:
            command.close()
        return ScriptRun(status, "done", output)

    async def start_shell(self, *, terminal: bool, limit_s: float) -> Typed:
        """Starts the login shell of the episode.

        Raises:
          SandboxError: it does not start.
        """
        self._terminal = terminal
        variables = SHELL_ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1"}
        words = _ON_TERMINAL if terminal else _RELAYED
        self._shell = self._engine.execute(
            self._name, words, variables, terminal=terminal
        )
        typed = await self._type(None, limit_s)
        if typed.ended == "exited":
            said = self._shell.errors() or typed.output.decode(errors="replace")
            raise SandboxError(self._engine.failure(f"its shell has ended: {said}"))
        return typed

    async def type(self, code: str, *, limit_s: float) -> Typed:
        """Types into the shell and waits until it is ready again.

        Args:
          code: a command.
          limit_s: wall-clock limit.
        """
        return await self._type(f"{code}\n".encode("utf-8", "replace"), limit_s)

    async def _type(self, lines: bytes | None, limit_s: float) -> Typed:
        if self._terminal:
            mark, typed = _OnTerminal(lines is not None), lines or b""
        else:
            mark = Mark()
            typed = (FIRST_LINE if lines is None else lines) + mark.line
        output, rest, ended = Output(), b"", "done"
        sending = asyncio.ensure_future(self._shell.send(typed))
        try:
            async with asyncio.timeout(limit_s):
                while rest is not None:
                    part = await self._shell.receive()
                    if not part:
                        ended = "exited"
                        break
                    before, rest = mark.split(rest + part)
                    output.add(before)
        except TimeoutError:
            ended = "limit"
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        if ended == "exited":
            await self._engine.check_answers()  # else it was not the shell
        output.add(rest or b"", final=True)
        if rest is None and not mark.complete:
            ended = "limit"
        return Typed(ended, output.kept, output.valid)

    async def remember(self) -> None:
        """Has no effect: nothing of the container judges."""

    async def end(self, *, keep_processes: bool = False) -> str | None:
        """Freezes all processes; see `base.Shell`."""
        known = await self._engine.freeze(self._name)
        self.close()  # not before: the shell shall be seen
        if known is None:
            return "its container has stopped, or cannot be stopped"
        self._looking = Looking(self._engine, self._name, known, keep_processes)
        return None

    async def look(
        self,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
        how: Look = PLAIN_LOOK,
    ) -> ScriptRun:
        """Runs a script in the looking world; see `base.Shell`."""
        begun = time.monotonic()
        limit_s = max(0.0, min(limit_s, self._left_s))
        try:
            return await self._looking.run(code, arguments, limit_s, how)
        except TimeoutError:
            return ScriptRun(-9, "limit", b"")
        finally:
            self._left_s -= time.monotonic() - begun

    def close(self) -> None:
        """Lets go of the shell; `Containers.open` removes the container."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None


class _OnTerminal:
    """The output of a turn on a terminal, with the interface of `Mark`.

    Args:
      echo: whether the first line repeats what was typed, and is left out.
    """

    complete = True

    def __init__(self, echo: bool):
        self._echo = echo
        self._prompt = Prompt()

    def split(self, data: bytes) -> tuple[bytes, bytes | None]:
        """(Output, None where the prompt is back); see `Mark.split`."""
        if self._echo:
            _, newline, data = data.partition(b"\n")
            self._echo = not newline
        return data, None if self._prompt.add(data) else b""
