"""Reading what a program writes, up to a limit, and waiting for its end."""

import asyncio
import os
import subprocess
from collections.abc import Callable

from cycleqd_jax.sandbox.base import Limits

_GRACE_S = 60.0  # beyond the wall limit, for start and clean-up on a busy machine
_STOP_GRACE_S = 10.0


class Capture:
    """Collects at most `limit` bytes from the pipe `fd` while it is entered.

    Args:
      fd: the end to read; set to non-blocking.
      limit: bytes to keep.
      on_over: set when more than `limit` bytes came; reading stops then.
    """

    def __init__(self, fd: int, limit: int, on_over: asyncio.Event):
        self._fd = fd
        self._limit = limit
        self._on_over = on_over
        self._parts: list[bytes] = []
        self._size = 0
        self._done = False
        os.set_blocking(fd, False)

    @property
    def data(self) -> bytes:
        """What was read, never more than the limit."""
        return b"".join(self._parts)[: self._limit]

    @property
    def over(self) -> bool:
        """Whether more than the limit came."""
        return self._size > self._limit

    def __enter__(self) -> "Capture":
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    def __exit__(self, *exc) -> None:
        self._stop()

    def drain(self) -> None:
        """Reads what is left in the pipe once its writers are gone."""
        while not self._done:
            if not self._read():
                self._stop()

    def _read(self) -> bool:
        """Reads once; returns False when nothing was there."""
        try:
            part = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return False
        self._parts.append(part)
        self._size += len(part)
        if not part:
            self._stop()
        elif self.over:
            self._stop()
            self._on_over.set()
        return True

    def _stop(self) -> None:
        if not self._done:
            self._done = True
            asyncio.get_running_loop().remove_reader(self._fd)


async def wait_for_exit(process: subprocess.Popen) -> None:
    """Waits until `process` has ended, without a thread, and reaps it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    pidfd = os.pidfd_open(process.pid)
    try:
        loop.add_reader(pidfd, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    process.wait()


async def until_end(
    process: subprocess.Popen,
    pipes: tuple[int, int],
    limits: Limits,
    stop: Callable[[], None],
) -> tuple[Capture, Capture]:
    """Waits for the end of the sandbox; stops it on too much output or cancellation."""
    over = asyncio.Event()
    try:
        with (
            Capture(pipes[0], limits.output_bytes, over) as stdout,
            Capture(pipes[1], limits.output_bytes, over) as stderr,
        ):
            ended = asyncio.ensure_future(wait_for_exit(process))
            flooded = asyncio.ensure_future(over.wait())
            try:
                await asyncio.wait(
                    (ended, flooded),
                    timeout=limits.wall_s + _GRACE_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:  # also when cancelled: nothing may be left behind
                stop()
                try:
                    await asyncio.wait((ended,), timeout=_STOP_GRACE_S)
                finally:
                    ended.cancel()
                    flooded.cancel()
            stdout.drain()
            stderr.drain()
    finally:
        if process.poll() is None:  # it does not stop, or we are cancelled twice
            process.kill()
            process.wait()
    return stdout, stderr
