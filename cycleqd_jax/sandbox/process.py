"""Waits for the end of a program and reads what it prints, or kills it."""

import asyncio
import contextlib
import dataclasses
import marshal
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from cycleqd_jax.sandbox.descriptors import Descriptors

_STOP_GRACE_S = 10.0
# Executes the modules that are in a descriptor: compiled, or else source.
_MAIN = """
import marshal, sys
for name, code in marshal.load(open(int(sys.argv.pop(1)), "rb")):
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
module.main(*map(int, sys.argv[1:]))
"""


def first_process(
    fds: Descriptors, python: str, code: bytes, request: object
) -> tuple[socket.socket, list[str], list[int]]:
    """The arguments of one of our processes 1.

    Args:
      fds: gets the descriptors; close them after the start.
      python: what runs it, inside.
      code: what it executes, see `host`.
      request: is read by it first; marshal can write it.

    Returns:
      (the socket to it, its words, descriptors that it gets).
    """
    ours, theirs = socket.socketpair()
    inside = [fds.memory(code), theirs.detach(), fds.process(os.getpid())]
    fds.take(inside[1])
    inside.append(fds.memory(marshal.dumps(request, 2)))
    return ours, [python, "-I", "-S", "-c", _MAIN, *map(str, inside)], inside


@dataclasses.dataclass(frozen=True)
class Ended:
    """The end of a program.

    Attributes:
      late: whether its time was up.
      over: whether one of its pipes had more than was read.
      printed: what came out of each pipe.
      cpu_s: processor seconds of it and of those that it waited for.
    """

    late: bool
    over: bool
    printed: tuple[bytes, ...]
    cpu_s: float


async def wait_for_exit(process: subprocess.Popen) -> float:
    """Waits until `process` has ended and reaps it, without a thread.

    Returns:
      Processor seconds of it and of those that it waited for.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    pidfd = os.pidfd_open(process.pid)
    try:
        loop.add_reader(pidfd, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


async def until_end(
    process: subprocess.Popen,
    pipes: Mapping[int, int],
    stop: Callable[[], None],
    limit_s: float | None = None,
) -> Ended:
    """Waits for the end of a program; stops it at a limit or on cancellation.

    Args:
      process: the program, or bubblewrap.
      pipes: descriptor of what it prints, made non-blocking -> bytes to read from
        there; it is stopped when more come.
      stop: stops it; is called in any case.
      limit_s: seconds on the clock, or None.
    """
    over = asyncio.Event()
    readers = [_Reader(fd, most, over) for fd, most in pipes.items()]
    ended = asyncio.ensure_future(wait_for_exit(process))
    flooded = asyncio.ensure_future(over.wait())
    try:
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait((ended, flooded), timeout=limit_s, return_when=first)
        late = not ended.done() and not over.is_set()
    finally:  # also when cancelled: no process may be left
        flooded.cancel()
        stop()
        try:
            await asyncio.wait((ended,), timeout=_STOP_GRACE_S)
        finally:
            ended.cancel()  # does nothing if it is done
            known = ended.done() and not ended.cancelled()
            if process.poll() is None:  # it did not stop, or we were cancelled twice
                end_at_once(process)
            for reader in readers:
                reader.finish()
    printed = tuple(bytes(reader.data[: reader.most]) for reader in readers)
    return Ended(late, over.is_set(), printed, ended.result() if known else 0.0)


class _Reader:
    """Reads a pipe to its end, or until there are more than `most` bytes."""

    def __init__(self, fd: int, most: int, over: asyncio.Event):
        self.data = bytearray()
        self._fd, self.most, self._over = fd, most, over
        self._reading = True
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> bool:
        """Reads once; False if there was nothing."""
        try:
            part = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return False
        self.data += part
        if len(self.data) > self.most:
            self._over.set()
        if not part or len(self.data) > self.most:
            self._stop()
        return True

    def _stop(self) -> None:
        self._reading = False
        asyncio.get_running_loop().remove_reader(self._fd)

    def finish(self) -> None:
        """Reads the rest after its writers have ended."""
        while self._reading:
            if not self._read():
                self._stop()


def end_at_once(process: subprocess.Popen) -> None:
    """Kills bubblewrap and its sandbox, and waits for it.

    The first process of a sandbox waits until bubblewrap has set it up, for ever if
    bubblewrap is killed before that. So first bubblewrap is paused, so that it forks no
    more, then the first process is killed, and with it all of its namespace.
    """
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(OSError):  # it has ended already
        for pid in file.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    process.kill()
    process.wait()


def kill_group(process: subprocess.Popen) -> None:
    """Kills a process and its group, which may outlive it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
