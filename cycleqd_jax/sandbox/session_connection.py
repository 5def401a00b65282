"""One session as the library sees it: what can be asked of its process 1.

See `session`, which starts them.
"""

import asyncio
import contextlib
import dataclasses
import json
import socket
import struct
from collections.abc import Mapping, Sequence

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.session_skeleton import PATH

START_S = 60.0  # for one start on a busy machine; it takes milliseconds
_GRACE = 20.0  # a limit by the session's clock is at most so many times longer
_MAX_REPLY_BYTES = 2**22
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "HOSTNAME": "box"}
SHELL_ENVIRONMENT = {**ENVIRONMENT, "TERM": "xterm"}
_TRUSTED = {
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclasses.dataclass(frozen=True)
class Judging:
    """How a script runs that judges: with programs that the episode cannot change.

    Attributes:
      check: whether it is one of the benchmark's checks. Then nothing but /tmp and /run
        can be changed, and what `Session.judge` has stopped is killed first.
      variables: of its environment.
    """

    check: bool = True
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ScriptRun:
    """What became of a script.

    Attributes:
      status: exit status, or minus the signal that ended it.
      ended: done, limit, cpu or memory.
      output: standard output and error output as they came, its first 64 KiB.
    """

    status: int
    ended: str
    output: bytes


@dataclasses.dataclass(frozen=True)
class Typed:
    """What became of something typed into the shell.

    Attributes:
      ended: done, limit (its time was up), exited (the shell has ended), cpu, memory.
      output: what was printed, its first 64 KiB.
      valid: whether all that was printed is UTF-8.
    """

    ended: str
    output: bytes
    valid: bool


class Session:
    """One session; made by `session.Sessions.open`.

    Args:
      sock: to its supervisor.
      python: the folder that has its python3.
    """

    def __init__(self, sock: socket.socket, python: str):
        sock.setblocking(False)
        self._sock = sock
        self._python = python

    async def started(self) -> None:
        """Waits for the supervisor's first word."""
        await self._receive(START_S)

    async def script(
        self,
        language: str,
        code: str,
        arguments: Sequence[str | bytes] = (),
        *,
        limit_s: float,
        judging: Judging | None = None,
    ) -> ScriptRun:
        """Runs a script on its own, in `/`.

        Args:
          language: bash or python.
          code: its text.
          arguments: given to it.
          limit_s: seconds, by the session's clock.
          judging: how, after `judge`; None before.
        """
        words = {"bash": ["-c", code, "--"], "python": ["-I", "-c", code]}[language]
        name = {"bash": "bash", "python": "python3"}[language]
        env = dict(ENVIRONMENT)
        if judging is not None:
            env |= _TRUSTED | dict(judging.variables)
        elif language == "python":
            words = words[1:]
        folder = "/bin" if language == "bash" else self._python
        reply = await self._ask(
            limit_s,
            do="run",
            argv=[f"{folder}/{name}", name, *map(_bytes_as_text, (*words, *arguments))],
            env=env,
            limit_s=limit_s,
            judging=judging is not None,
            check=judging is not None and judging.check,
        )
        output = reply["output"].encode("latin-1")
        return ScriptRun(int(reply["status"]), str(reply["ended"]), output)

    async def start_shell(self, *, terminal: bool, limit_s: float) -> Typed:
        """Starts the login shell that stays; what it printed until it was ready."""
        return _typed(
            await self._ask(
                limit_s,
                do="shell",
                env=SHELL_ENVIRONMENT,
                terminal=terminal,
                limit_s=limit_s,
            )
        )

    async def type(self, code: str, *, limit_s: float) -> Typed:
        """Types into the shell, and waits until it is ready again or out of time."""
        data = _bytes_as_text(code)
        return _typed(await self._ask(limit_s, do="type", code=data, limit_s=limit_s))

    async def remember(self) -> None:
        """Notes what the users' login shells are before the episode begins."""
        await self._ask(0.0, do="remember")

    async def judge(self, *, freeze: bool = False) -> str | None:
        """Ends the episode's own part; only scripts with `judging` may follow.

        Args:
          freeze: stop its processes for good instead of killing them, for scripts
            that look at what runs.

        Returns:
          Why it cannot be judged (the episode has destroyed the system), or None.
        """
        return (await self._ask(0.0, do="judge", freeze=freeze))["tampered"]

    async def close(self) -> None:
        """Kills all that runs and waits until it is gone."""
        if self._sock.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(START_S):
                with contextlib.suppress(OSError):
                    while await loop.sock_recv(self._sock, 1 << 16):
                        pass
        except TimeoutError:
            pass  # process 1 is killed with the server at the latest
        finally:
            self._sock.close()

    async def _ask(self, within_s: float, /, **message: object) -> dict:
        data = json.dumps(message).encode("ascii")
        try:
            await asyncio.get_running_loop().sock_sendall(
                self._sock, struct.pack("!I", len(data)) + data
            )
        except OSError as error:
            raise SandboxError(f"the session has ended ({error})") from error
        return await self._receive(START_S + _GRACE * within_s)

    async def _receive(self, patience_s: float) -> dict:
        try:
            async with asyncio.timeout(patience_s):
                (size,) = struct.unpack("!I", await self._exactly(4))
                if size > _MAX_REPLY_BYTES:
                    raise SandboxError(f"a session's reply has {size} bytes")
                reply = json.loads(await self._exactly(size))
        except TimeoutError as error:
            raise SandboxError(
                f"a session has not answered within {patience_s:g} s; the machine is "
                "too busy, or process 1 of the session was stopped"
            ) from error
        if "error" in reply:
            raise SandboxError(str(reply["error"]))
        return reply

    async def _exactly(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        parts = []
        while size:
            try:
                part = await loop.sock_recv(self._sock, size)
            except OSError as error:
                raise SandboxError(f"the session has ended ({error})") from error
            if not part:
                raise SandboxError("the session has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _bytes_as_text(word: str | bytes) -> str:
    """Bytes as they travel; what cannot be encoded becomes question marks."""
    data = word if isinstance(word, bytes) else word.encode("utf-8", "replace")
    return data.decode("latin-1")


def _typed(reply: dict) -> Typed:
    text = reply["text"].encode("latin-1")
    return Typed(str(reply["ended"]), text, bool(reply["valid"]))
