"""Nothing outlives its run, its caller or its parent; other load makes nobody late."""

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cycleqd_jax
from cycleqd_jax.sandbox.base import Ending, Limits, Program
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.sandbox.process import end_at_once

sys.path.insert(0, str(Path(__file__).parent))
from footprint import WHO, drive

ROOT = Path(cycleqd_jax.__file__).parents[1]
ORPHANS = Path(__file__).with_name("orphans.py")


@pytest.mark.parametrize("who", WHO)
def test_all_dies_with_a_parent_that_is_killed(who):
    found = json.loads(drive(ORPHANS, who, "8", timeout_s=300))
    assert (found["uid"] == 0) == (who == "root")
    assert found["survivors"] == []
    assert found["changed"] == []
    assert max(found["orphans"]) > 0  # else there was nothing to survive


HANGS = Program(("sleep", "1000"), limits=Limits(wall_s=0.2))
BURN = "import time\nwhile time.process_time() < 0.3: pass\nprint('in time')"
# The parent waits uninterruptibly, as if for a disk.
VFORK = "import ctypes, time\nctypes.CDLL(None).syscall(58) or time.sleep(1000)"


def test_a_program_that_hangs_ends():
    execution = asyncio.run(BubblewrapSandbox(workers=2).run(HANGS))
    assert execution.ending is Ending.WALL_LIMIT


def test_waiting_for_a_processor_does_not_count():
    rivals = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(3 * (os.cpu_count() or 1))
    ]
    limits = Limits(cpu_s=10, wall_s=3.0)
    program = Program(("python3", "-c", BURN), limits=limits)
    try:
        execution = asyncio.run(BubblewrapSandbox(workers=1).run(program))
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()
    assert execution.stdout == b"in time\n", execution


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of its call")
def test_waiting_for_a_child_counts():
    limits = Limits(cpu_s=10, wall_s=2.0)
    program = Program(("python3", "-c", VFORK), limits=limits)
    execution = asyncio.run(BubblewrapSandbox(workers=1).run(program))
    assert execution.ending is Ending.WALL_LIMIT


def first_process(monitor: int) -> list[str]:
    """The sandbox's first process, as soon as bubblewrap has made it; else nothing."""
    file = Path(f"/proc/{monitor}/task/{monitor}/children")
    for _ in range(20_000):
        try:
            if found := file.read_text().split():
                return found
        except OSError:
            break
    return []


def lives(pid: str) -> bool:
    """Whether a process is there, and not only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("pause_s", [0, 0.0005, 0.001, 0.002, 0.004, 0.02])
def test_killed_while_it_is_built(pause_s):
    # Once bubblewrap is gone, its half-built sandbox would wait for it for ever.
    host = BubblewrapSandbox(workers=1)._host
    command = host.command(uid=host.uid(0), scratch_bytes=2**20, files={})
    process = subprocess.Popen([*command, "sleep", "1000"], env={})
    made = first_process(process.pid)
    time.sleep(pause_s)
    end_at_once(process)
    assert process.returncode == -signal.SIGKILL
    assert len(made) == 1
    end = time.monotonic() + 10
    while lives(made[0]):
        assert time.monotonic() < end, "it is still there"
        time.sleep(0.01)


def test_cancelled_twice_at_a_start():
    # As by Ctrl-C and then by the end of the event loop.
    sandbox = BubblewrapSandbox(workers=1)

    async def cancel(pause_s: float) -> None:
        task = asyncio.ensure_future(sandbox.run(Program(("sleep", "1000"))))
        await asyncio.sleep(pause_s)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        assert task.cancelled()

    before = len(os.listdir("/proc/self/fd"))
    for number in range(10):
        asyncio.run(cancel(0.002 * number))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_fork_of_ours_does_not_keep_a_program_alive():
    # It inherits our end of the pipe that stops the program. In a process of its own,
    # since this one may have threads and must not fork.
    script = """if True:
        import asyncio, os, signal, time
        from cycleqd_jax.sandbox.base import Program
        from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox

        async def main():
            run = BubblewrapSandbox(workers=1).run(Program(("sleep", "1000")))
            task = asyncio.ensure_future(run)
            await asyncio.sleep(0.2)
            pid = os.fork()
            if pid == 0:
                time.sleep(1000)
            start = time.monotonic()
            task.cancel()
            await asyncio.wait([task])
            os.kill(pid, signal.SIGKILL)
            print(time.monotonic() - start)

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert float(done.stdout) < 8, done.stderr  # ten seconds are what it would wait
