"""Looks at what an episode left, from containers of their own.

The episode's container is frozen. A fresh container of the same image sees the tree of
the episode's files, read-only, and makes one of two views of it (`container_scripts`):

- the looking world, for scripts that judge: the tree without programs (noexec),
  set-user-id bits and devices; over it the image's own programs, loader, libraries and
  the files of /etc that steer them. Scripts write into a layer that is thrown away.
- the episode's world, only where a script runs a program of the episode or reads its
  `~/.bashrc`: the tree as it is, under such a layer. A few bytes come from there.
"""

import asyncio
import base64
import contextlib
import re
import secrets
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import ENVIRONMENT, KEPT_BYTES, Look, ScriptRun
from cycleqd_jax.sandbox.container_command import Command
from cycleqd_jax.sandbox.container_engine import CALL_S, Engine
from cycleqd_jax.sandbox.container_scripts import (
    CALL,
    LOGIN,
    LOOK,
    SOURCE,
    STUB,
    WORLD,
)
from cycleqd_jax.sandbox.shell_functions import fixed_tools, in_front

# Trusted folders first: what the episode added to the others hides nothing.
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
_VARIABLES = {
    **ENVIRONMENT,
    "PATH": _PATH,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
}
# Files of /etc that the engine keeps elsewhere -> where it says that they are.
_MANAGED = {
    "hosts": "HostsPath",
    "hostname": "HostnamePath",
    "resolv.conf": "ResolvConfPath",
}
_RIGHTS = (
    "--cap-add=SYS_ADMIN",
    "--security-opt=apparmor=unconfined",
    "--security-opt=label=disable",
)
_SOURCED = re.compile(rb"([0-9]{1,3}) ([^\0\n]{0,4096})")
_ERROR_BYTES = 1000
_LINE_BYTES = 2**18  # of what a script says to us
_CALL_BYTES = 2**14  # of what a program of the episode prints for a script
_REPLY_BYTES = 2**17  # of one answer of the episode's world, in base 64


class Looking:
    """The files and processes of an episode whose container is frozen.

    Args:
      engine: runs the containers.
      name: of the episode's container.
      known: what the engine says of it.
      with_processes: whether scripts see its processes, which do not run any more.

    Raises:
      SandboxError: the engine does not say where its files are.
    """

    def __init__(
        self, engine: Engine, name: str, known: dict[str, Any], with_processes: bool
    ):
        tree = (known["GraphDriver"].get("Data") or {}).get("MergedDir")
        if not tree:
            raise SandboxError(
                f"{engine.name} does not say where the files of a container are; "
                "expected the storage driver overlay"
            )
        places = {"tree": tree}
        places |= {f"etc/{n}": known[key] for n, key in _MANAGED.items() if known[key]}
        self._engine = engine
        self._name = name
        self._flags = [
            *_RIGHTS,
            "--volume=/run/cycleqd/layer",
            *(
                f"--mount=type=bind,src={place},dst=/run/cycleqd/{name},readonly"
                for name, place in places.items()
            ),
        ]
        self._join = [f"--pid=container:{name}"] if with_processes else []

    async def run(
        self, code: str, arguments: Sequence[str | bytes], limit_s: float, how: Look
    ) -> ScriptRun:
        """Runs a bash script in the looking world; see `base.Shell.look`.

        The time that it takes to start containers does not count.

        Raises:
          SandboxError: the engine failed.
          TimeoutError: it took longer than `limit_s` seconds.
        """
        async with contextlib.AsyncExitStack() as stack:
            world = _Attached(self._engine, self._name)
            functions = {name: STUB.replace("NAME", name) for name in how.programs}
            if how.bashrc or how.programs:
                running = world.running(self._flags, WORLD, ())
                await stack.enter_async_context(running)
            if how.bashrc:
                async with asyncio.timeout(limit_s):
                    functions |= {**fixed_tools(code), "source": await _sourced(world)}
            if how.logins:
                functions["runuser"] = LOGIN
            if not how.programs:  # a link of the episode may lead a script to them
                code = f"exec 3>&- 4<&-\n{code}"
            look = _Attached(self._engine, self._name)
            words = [
                *_view(how),
                "--",
                *_assigned(_VARIABLES | {"CYCLEQD_WORD": look.word}),
                *("bash", "-c", in_front(functions, code), "--"),
                *map(as_text, arguments),
            ]
            running = look.running([*self._flags, *self._join], LOOK, words)
            if broken := await stack.enter_async_context(running):
                return ScriptRun(1, "done", broken.encode())
            async with asyncio.timeout(limit_s):
                return await _finish(look, world, how)


class _Attached:
    """A container whose script speaks with us.

    Attributes:
      word: begins each line that it has for us.
    """

    def __init__(self, engine: Engine, name: str):
        self.word = secrets.token_hex(16)
        self._engine = engine
        self._name = f"{name}-{secrets.token_hex(4)}"
        self._command: Command | None = None
        self._said = self._complaint = b""
        self._ended = False

    @contextlib.asynccontextmanager
    async def running(
        self, flags: Sequence[str], script: str, words: Sequence[str]
    ) -> AsyncIterator[str]:
        """Starts it, and removes it in the end.

        Yields:
          Why the script could not set up its world; empty if it could.

        Raises:
          SandboxError: the container did not start.
        """
        words = ["bash", "-c", script, "bash", self.word, *words]
        self._command = self._engine.attached(self._name, flags, words)
        try:
            said = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CALL_S):
                    said = await self.next()
            if said is None:
                raise SandboxError(self._engine.failure(self.complaint()))
            yield "" if said == b"ready" else said.decode(errors="replace")
        finally:
            self._command.close()
            if not self._ended:
                await self._engine.remove(self._name)

    async def next(self) -> bytes | None:
        """The script's message to us; None if it ended without one."""
        while True:
            line, newline, rest = self._said.partition(b"\n")
            if newline:
                self._said = rest
                word, _, said = line.partition(b" ")
                if word == self.word.encode():
                    return said
                self._complaint = (self._complaint + line)[-_ERROR_BYTES:]
            elif part := await self._command.receive_errors():
                self._said = (self._said + part)[-_LINE_BYTES:]
            else:
                self._ended = True
                return None

    async def output(self, most: int) -> bytes:
        """The first `most` bytes of its output, which is read to its end."""
        return await self._command.read(most)

    async def status(self) -> int:
        """Its exit status, once `next` has said that it has ended.

        Raises:
          SandboxError: the engine complained.
        """
        status = await self._command.ended()
        if self._complaint:
            raise SandboxError(self._engine.failure(self.complaint()))
        return status

    def complaint(self) -> str:
        """The end of the error output that is not for us, but the engine's."""
        return (self._complaint + self._said).decode(errors="replace").strip()

    async def answer(self, line: bytes) -> None:
        """Sends it a line."""
        await self._command.send(line + b"\n")

    async def ask(self, words: Sequence[str]) -> tuple[int, bytes]:
        """Runs a program in the episode's world.

        Args:
          words: the program and its arguments.

        Returns:
          Its status and the beginning of its output; 1 if it cannot be run.
        """
        words = [*_assigned(ENVIRONMENT), *words]
        token = "".join(f"{word}\0" for word in words).encode()
        await self.answer(base64.b64encode(token))
        reply = bytearray()
        while not reply.endswith(b"\n") and len(reply) < _REPLY_BYTES:
            part = await self._command.receive()
            if not part:
                return 1, b""
            reply += part
        try:  # it may have been tampered with
            text, status = reply.split(b" ")
            return int(status) & 255, base64.b64decode(text)
        except ValueError:
            return 1, b""


async def _sourced(world: _Attached) -> str:
    """A function that does what reading `~/.bashrc` does to PATH."""
    words = ["bash", "--noprofile", "--norc", "-c", SOURCE]
    found = _SOURCED.fullmatch((await world.ask(words))[1])
    if found is None:  # it ends the shell that reads it
        return "() { exit 1; }"
    path = shlex.quote(found[2].decode(errors="replace"))
    return f"() {{ PATH={path}; return {int(found[1]) & 255}; }}"


async def _finish(look: _Attached, world: _Attached, how: Look) -> ScriptRun:
    """Answers the questions of a look until it has ended."""
    reading = asyncio.ensure_future(look.output(KEPT_BYTES))
    try:
        while (said := await look.next()) is not None:
            _, _, asked = said.partition(b" ")
            status, output = await _call(world, base64.b64decode(asked), how)
            answer = base64.b64encode(output[:_CALL_BYTES])
            await look.answer(b"%d " % status + answer)
        return ScriptRun(await look.status(), "done", await reading)
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def _call(world: _Attached, asked: bytes, how: Look) -> tuple[int, bytes]:
    """Runs a program of the episode for a script, if its output has the right form."""
    words = asked.decode(errors="replace").split("\0")[:-1]
    status, output = await world.ask(["bash", "-c", CALL, "bash", *words])
    said = output.decode(errors="replace").strip()
    right = re.fullmatch(how.programs[words[1]], said)
    return (status, output) if right else (1, b"")


def _view(how: Look) -> list[str]:
    """The first arguments of `LOOK`."""
    if not how.tree:
        return ["none"]
    return ["nosuid,nodev" + ("" if how.executable else ",noexec"), *how.changed]


def _assigned(variables: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


def as_text(word: str | bytes) -> str:
    """A word as an engine can pass it on; what is not UTF-8 becomes question marks."""
    data = word if isinstance(word, bytes) else word.encode("utf-8", "replace")
    return data.decode("utf-8", "replace")
