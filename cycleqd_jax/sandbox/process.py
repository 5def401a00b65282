"""Waits for the end of bubblewrap, or kills it."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from cycleqd_jax.sandbox.base import Limits
from cycleqd_jax.sandbox.capture import Capture

_GRACE_S = 60.0  # after the wall-clock limit, for start and clean-up under load
_STOP_GRACE_S = 10.0


async def wait_for_exit(process: subprocess.Popen) -> None:
    """Waits until `process` has ended and reaps it, without a thread."""
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
    """Waits for the end of a sandbox; stops it on too much output or cancellation."""
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
            finally:  # also when cancelled: no process may be left
                stop()
                try:
                    await asyncio.wait((ended,), timeout=_STOP_GRACE_S)
                finally:
                    ended.cancel()
                    flooded.cancel()
            stdout.drain()
            stderr.drain()
    finally:
        if process.poll() is None:  # it did not stop, or we were cancelled twice
            end_at_once(process)
    return stdout, stderr


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
