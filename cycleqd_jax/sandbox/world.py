"""Bubblewraps that we talk to, by a process 1 of ours (`_first`)."""

import asyncio
import contextlib
import marshal
import math
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import KEPT_BYTES, Limits, ScriptRun, ShellLimits
from cycleqd_jax.sandbox.descriptors import Descriptors
from cycleqd_jax.sandbox.process import start, until_end

START_S = 60.0  # for one start on a busy machine; it takes milliseconds
_PENDING_SIGNALS = 256  # and timers, of all processes of a user together
_BUFFER = 2**20  # bytes of an answer that are read ahead
_GRACE = 20.0  # a limit by the episode's clock is at most so many times longer
# Executes the modules that are in a descriptor: compiled, or else source.
_MAIN = """
import marshal, sys
for name, code in marshal.load(open(int(sys.argv.pop(1)), "rb")):
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
module.main(*map(int, sys.argv[1:]))
"""


class World:
    """A bubblewrap in which `_first` is process 1; `pid` is that of bubblewrap.

    Args:
      process: bubblewrap.
      sock: to process 1.
      info_fd: bubblewrap says here what it made; closed with this object.
      said_fd: what it wrote to its error output; closed with this object.
    """

    def __init__(
        self, process: subprocess.Popen, sock: socket.socket, info_fd: int, said_fd: int
    ):
        self._process = process
        self.pid = process.pid
        self._sock = sock
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._info_fd = info_fd
        self._said_fd = said_fd

    @classmethod
    def start(
        cls,
        wall: Callable[[Descriptors], list[str]],
        python: str,
        code: bytes,
        settings: Mapping[str, object],
        stdin: bytes | None = None,
    ) -> "World":
        """Starts one; `ready` waits for it.

        Args:
          wall: makes the words of bubblewrap, and descriptors that they name.
          python: what runs process 1, inside.
          code: of process 1, see `host`.
          settings: for process 1, see `_first.World`.
          stdin: input of what runs in it; None for none.
        """
        # Files, no pipes: had we been killed, bubblewrap would end by a signal as it
        # writes, and leave its child waiting for ever.
        with Descriptors() as fds, contextlib.ExitStack() as stack:
            info, said = os.memfd_create("info"), os.memfd_create("said")
            stack.callback(os.close, info)
            stack.callback(os.close, said)
            sock, other = socket.socketpair()
            stack.callback(sock.close)
            theirs = other.detach()
            fds.take(theirs)
            given = [fds.memory(code), theirs, fds.process(os.getpid())]
            given.append(fds.memory(marshal.dumps(settings, 2)))
            words = [*wall(fds), "--info-fd", str(info), "--"]
            words += [python, "-I", "-S", "-c", _MAIN, *map(str, given)]
            source = subprocess.DEVNULL if stdin is None else fds.memory(stdin)
            process = start(words, (*fds.all, info), said, stdin=source)
            stack.pop_all()  # from here on they are the world's
        return cls(process, sock, info, said)

    async def ready(self) -> None:
        """Waits until process 1 serves."""
        self._streams = await asyncio.open_connection(sock=self._sock, limit=_BUFFER)
        await self._reply(START_S, 0)

    def namespaces(self, fds: Descriptors) -> tuple[int, int]:
        """Descriptors of its namespaces of users and of processes."""
        # Bubblewrap wrote it before it started process 1.
        said = os.pread(self._info_fd, 4096, 0).decode()
        first = int(said.partition('"child-pid": ')[2].partition(",")[0])
        try:
            made = [
                os.open(f"/proc/{first}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
                for kind in ("user", "pid")
            ]
        except OSError as error:
            raise SandboxError(
                f"the episode's process 1 has ended ({error})"
            ) from error
        fds.take(*made)
        return made[0], made[1]

    async def ask(
        self, within_s: float, /, *, most: int = KEPT_BYTES, **message: object
    ) -> tuple[str, int, bool, list[bytes]]:
        """Asks process 1 for something.

        Args:
          within_s: seconds that it may take, by the clock of the world.
          most: bytes of all parts of the answer.
          **message: see `_first`.

        Returns:
          (how it ended, status, whether its output is UTF-8, parts of the answer).

        Raises:
          SandboxError: it has ended, or does not answer.
        """
        self._streams[1].write(marshal.dumps(message, 2))
        return await self._reply(START_S + _GRACE * within_s, most)

    async def _reply(
        self, patience_s: float, most: int
    ) -> tuple[str, int, bool, list[bytes]]:
        reader, writer = self._streams
        try:
            async with asyncio.timeout(patience_s):
                await writer.drain()
                header = await reader.readuntil(b"\n")
                ended, *numbers = header.decode().split()
                status, valid, count = map(int, numbers)
                parts: list[bytes] = []
                for _ in range(count):
                    size = int.from_bytes(await reader.readexactly(4), "big")
                    most -= size
                    if most < 0:
                        raise SandboxError("a sandbox says more than was asked for")
                    parts.append(await reader.readexactly(size))
        except TimeoutError as error:
            raise SandboxError(
                f"a sandbox has not answered within {patience_s:g} s; the computer is "
                "too busy, or process 1 there was stopped"
            ) from error
        except (EOFError, OSError, ValueError, asyncio.LimitOverrunError) as error:
            said = os.pread(self._said_fd, 4000, 0).decode(errors="replace").strip()
            why = said.splitlines()[-1] if said else error
            raise SandboxError(f"the sandbox has ended ({why})") from error
        if ended == "failed":
            raise SandboxError(parts[0].decode(errors="replace"))
        return ended, status, bool(valid), parts

    def stop(self) -> None:
        """Ends it soon, with all that is in it."""
        # Closing is not enough: a fork of ours may keep the socket open.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Ends it with all that is in it, and waits for that."""
        try:
            await until_end(self._process, self.stop, 0)
        finally:
            if self._streams is not None:
                self._streams[1].transport.abort()
            self._sock.close()
            os.close(self._said_fd)
            os.close(self._info_fd)

    async def run(
        self,
        argv: Sequence[str | bytes],
        environment: Mapping[str, str],
        limit_s: float,
        *,
        alone: bool,
    ) -> ScriptRun:
        """Runs a command, for at most `limit_s` seconds by the world's clock.

        With `alone` nothing else runs there, before or after.
        """
        ended, status, _, parts = await self.ask(
            limit_s,
            do="run",
            argv=[encode(word) for word in argv],
            env=dict(environment),
            limit_s=limit_s,
            alone=alone,
        )
        return ScriptRun(status, ended, parts[0])


def encode(word: str | bytes) -> bytes:
    """A word as bytes; what cannot be encoded becomes question marks."""
    return word if isinstance(word, bytes) else word.encode("utf-8", "replace")


def settings_of(
    limits: Limits | ShellLimits,
    drop: Sequence[str],
    *,
    own_processes: int = 1,
    folders: Sequence[str] = (),
) -> dict[str, object]:
    """The settings of process 1, see `_first.World`.

    Args:
      limits: of all that runs there. Lower limits of our own stay.
      drop: start of a command line that takes the capability of process 1 away; the
        last word is `prlimit`.
      own_processes: our own ones that count towards the limit on processes.
      folders: with the file systems whose entries process 1 counts.
    """
    words = [*drop]
    of_each = {
        "as": limits.memory_bytes,
        "nproc": limits.processes + own_processes,
        "nofile": limits.open_files,
        "fsize": limits.file_bytes,
        "core": 1,  # 0 would still run a core_pattern that is a pipe
        "memlock": 0,
        "msgqueue": 0,
        "sigpending": _PENDING_SIGNALS,
        # Process 1 enforces the exact total; this is only a second barrier.
        "cpu": math.ceil(limits.cpu_s) + 1,
    }
    for name, value in of_each.items():
        most = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
        value = value if most < 0 else min(value, most)
        words.append(f"--{name}={value}:{value}")
    return {
        "limits": {
            "cpu_s": float(limits.cpu_s),
            "memory_bytes": limits.memory_bytes,
            "folders": folders,
            "entries": limits.scratch_entries,
        },
        "kept": limits.processes // 2,
        "drop": [*words, "--"],
    }
