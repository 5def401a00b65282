"""Waits for the end of a program, or kills it."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # folders that no episode can write to
_STOP_GRACE_S = 10.0


def start(
    words: Sequence[str | bytes],
    passed: Collection[int],
    out: int,
    *,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen:
    """Starts a wall, or the process that holds file systems.

    It gets the descriptors `passed`, with these numbers; both outputs go to `out`.
    """
    return subprocess.Popen(
        words,
        stdin=stdin,
        stdout=out,
        stderr=out,
        pass_fds=passed,
        env={"PATH": PATH},
        cwd="/",
        start_new_session=True,  # Ctrl-C is for us alone
    )


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
    stop: Callable[[], None],
    limit_s: float | None = None,
) -> float | None:
    """Waits for the end of a program; stops it at a limit or on cancellation.

    Args:
      process: the program, or bubblewrap.
      stop: asks it to end, and all that it started; is called in any case.
      limit_s: seconds on the clock, or None.

    Returns:
      Processor seconds of it and of those that it waited for; None at the limit.
    """
    ended = asyncio.ensure_future(wait_for_exit(process))
    try:
        await asyncio.wait((ended,), timeout=limit_s)
        return ended.result() if ended.done() else None
    finally:  # also when cancelled: no process may be left
        stop()
        try:
            await asyncio.wait((ended,), timeout=_STOP_GRACE_S)
        finally:
            ended.cancel()  # does nothing if it is done
            if process.poll() is None:  # it did not stop, or we were cancelled twice
                end_at_once(process)


def end_at_once(process: subprocess.Popen) -> None:
    """Kills bubblewrap and its sandbox, and waits for it.

    The first process of a sandbox waits until bubblewrap has set it up, for ever if
    bubblewrap is killed before that. So first bubblewrap is paused, so that it forks no
    more, then the first process is killed, and with it all of its namespace.
    """
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    kill_children(process)
    process.kill()
    process.wait()


def kill_children(process: subprocess.Popen) -> None:
    """Kills the first process of a sandbox; bubblewrap waits for it, and ends.

    Were bubblewrap killed, a child that it does not wait for any more would keep the
    namespace of processes that it has joined until somebody else waits for it.
    """
    if process.returncode is not None:
        return
    file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(OSError):  # it has ended already
        for pid in file.read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def kill_group(process: subprocess.Popen) -> None:
    """Kills a process and its group, which may outlive it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
