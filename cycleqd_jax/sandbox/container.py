"""Sessions in containers of Docker or Podman, for exact images.

A container has no network and lives as long as its session. Changes of an episode to
its programs cannot be undone, so they are detected (`container_changes`): for judging,
the container is stopped, which ends all its processes, and compared with its image. If
programs, libraries or their configuration differ in content, the answer fails. The same
is checked again after a check that may run commands of the episode.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence

from cycleqd_jax.errors import SandboxError
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
from cycleqd_jax.sandbox.container_changes import Changes
from cycleqd_jax.sandbox.container_engine import Engine
from cycleqd_jax.sandbox.container_stream import Channel
from cycleqd_jax.sandbox.shell_functions import functions
from cycleqd_jax.sandbox.shell_mark import COMMAND, FIRST_LINE, Mark
from cycleqd_jax.sandbox.shell_output import Output

_TRUSTED = {"PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}
# Types each line after the shell has read the one before; see `_shell`.
_RELAY = """
import fcntl, os, struct, subprocess, sys, threading, time
FIONREAD = 0x541B  # a small Python has no termios
# One stream: the engine does not keep the order of two.
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


class Containers:
    """Starts containers.

    Args:
      image: name of the image.
      slots: containers at once.
      engine: address of its API, see `Engine`.
      limits: of each container, see `Engine`.

    Raises:
      BadInputError: no engine answers, or the SDK is not installed.
    """

    def __init__(
        self,
        image: str,
        slots: int,
        engine: str | None = None,
        limits: ShellLimits = DEFAULT_SHELL_LIMITS,
    ):
        self._engine = Engine(image, engine, limits)
        self._slots = slots
        self._free: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._commands: frozenset[str] | None = None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["ContainerSession"]:
        """Starts a container and removes it at the end.

        Raises:
          SandboxError: it could not be started.
        """
        loop = asyncio.get_running_loop()
        free = self._free.setdefault(loop, asyncio.Semaphore(self._slots))
        async with free:
            name = f"cycleqd-{os.getpid()}-{secrets.token_hex(6)}"
            try:
                await self._engine.start(name)
                if self._commands is None:
                    self._commands = await self._engine.commands(name)
                session = ContainerSession(self._engine, name, self._commands)
                try:
                    yield session
                finally:
                    await session.close()
            finally:
                await self._engine.remove(name)


class ContainerSession:
    """One container, with the interface of `base.Shell`.

    Args:
      engine: runs it.
      name: of the container.
      commands: names of the image's own commands.
    """

    def __init__(self, engine: Engine, name: str, commands: frozenset[str]):
        self._engine = engine
        self._name = name
        self._shell: Channel | None = None
        self._changes = Changes(engine, name, commands)

    async def script(
        self,
        language: str,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
    ) -> ScriptRun:
        """Runs a script that prepares the machine, in `/`."""
        return await self._script(language, code, arguments, ENVIRONMENT, limit_s)

    async def look(
        self,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
        how: Look = PLAIN_LOOK,
    ) -> ScriptRun:
        """Runs a script that looks; it fails if it changed programs."""
        variables = ENVIRONMENT | _TRUSTED | functions(how, code)
        run = await self._script("bash", code, arguments, variables, limit_s)
        if run.ended == "done" and await self._changes.while_judging():
            return ScriptRun(1, "done", b"it changed the system")
        return run

    async def _script(
        self,
        language: str,
        code: str,
        arguments: Sequence[str | bytes],
        variables: Mapping[str, str],
        limit_s: float,
    ) -> ScriptRun:
        words = {"bash": ["bash", "-c", code, "--"], "python": ["python3", "-c", code]}
        given = [os.fsdecode(a) if isinstance(a, bytes) else a for a in arguments]
        given = [
            a.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            for a in given
        ]
        status, output = await self._engine.run(
            self._name, (*words[language], *given), variables, limit_s
        )
        if status is None:
            await self._engine.end(self._name)
            return ScriptRun(-9, "limit", b"")
        return ScriptRun(status, "done", output[:KEPT_BYTES])

    async def start_shell(self, *, terminal: bool, limit_s: float) -> Typed:
        """Starts the login shell of the session.

        Raises:
          SandboxError: a terminal was asked for.
        """
        if terminal:
            raise SandboxError("the backend container has no terminal; choose another")
        variables = SHELL_ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1"}
        relay = ("python3", "-I", "-S", "-c", _RELAY)
        self._shell = await self._engine.execute(
            self._name, (*relay, *COMMAND), variables, stdin=True
        )
        return await self._type(FIRST_LINE, limit_s)

    async def type(self, code: str, *, limit_s: float) -> Typed:
        """Types into the shell and waits until it is ready again.

        Args:
          code: a command.
          limit_s: wall-clock limit.
        """
        return await self._type(f"{code}\n".encode("utf-8", "replace"), limit_s)

    async def _type(self, lines: bytes, limit_s: float) -> Typed:
        mark, ended = Mark(), "done"
        output, rest = Output(), b""
        sending = asyncio.ensure_future(self._shell.send(lines + mark.line))
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
            await self._engine.status(self._shell)  # else the engine has failed
        output.add(rest or b"", final=True)
        if rest is None and not mark.complete:
            ended = "limit"
        return Typed(ended, output.kept, output.valid)

    async def remember(self) -> None:
        """Records how the container differs from its image before the episode."""
        await self._changes.remember()

    async def end(self, *, keep_processes: bool = False) -> str | None:
        """Ends all processes of the container; `keep_processes` has no effect.

        Returns:
          A change of its programs, in words; None if there is none.
        """
        await self.close()
        await self._engine.end(self._name)
        await self._engine.wait(self._name)
        if tampered := await self._changes.of_episode():
            return tampered
        try:
            await self._engine.start_again(self._name)
        except SandboxError as error:
            # If another container starts, the episode has broken this one.
            other = f"{self._name}-other"
            try:
                await self._engine.start(other)
            finally:
                await self._engine.remove(other)
            return f"its container does not start any more, {error}"
        return None

    async def close(self) -> None:
        """Closes the shell; `Containers.open` removes the container."""
        shell, self._shell = self._shell, None
        if shell is not None:
            shell.close()
