"""Nothing is left of a shell, whoever ends it and whenever."""

import asyncio
import contextlib
import ctypes
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from tests.support.shells import in_shell

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from footprint import children

DRIVER = pathlib.Path(__file__).with_name("shell_driver.py")
ROOT = os.geteuid() == 0
SIGNS = (b"module.main(*map(", b"_holder.main(")
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(autouse=True)
def adopts():
    """Makes orphans children of this process, so that they are seen."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def descendants():
    """(Id, command line) of all processes that we or our children started."""
    parents, found = {}, set()
    for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            parents[int(file.parent.name)] = int(fields[1])
    below = {os.getpid()}
    while new := {pid for pid, of in parents.items() if of in below} - below:
        below |= new
    for pid in below - {os.getpid()}:
        with contextlib.suppress(OSError):
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            found.add((str(pid), line))
    return {(pid, line) for pid, line in found if line}  # those that have not ended


def gone(what, patience_s=20.0):
    """True if `what()` is empty soon."""
    end = time.monotonic() + patience_s
    while what() and time.monotonic() < end:
        # As the machine's first process does: what is not waited for keeps the
        # namespace that it was in.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)
    return not what()


@pytest.mark.parametrize("user", ["-", pytest.param("12345", id="other")])
def test_dies_with_its_user(user):
    """A process that is killed leaves nothing of its shells."""
    if user != "-" and not ROOT:
        pytest.skip("only root can become another user")
    before = set(descendants())
    python = sys.executable if user == "-" else "/usr/bin/python3"
    process = subprocess.Popen(
        [python, str(DRIVER), user, "hang"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={"PYTHONPATH": str(DRIVER.parents[2])},
    )
    with process:
        assert process.stdout.readline() == b"it runs\n"
        assert len(set(descendants()) - before) >= 4
        process.send_signal(signal.SIGKILL)
    assert gone(lambda: set(descendants()) - before)


def test_a_look_at_its_limit_leaves_no_process():
    """Not even one to wait for: a container may have nobody who does."""

    async def use(shell):
        await shell.end()
        return await shell.look("sleep 1000 & sleep 1000", limit_s=0.3)

    before = children()
    assert in_shell(use).ended == "limit"
    assert children() == before


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("user", ["-", pytest.param("12345", id="other")])
def test_killed_at_any_moment(user, rounds):
    """Nothing is left of shells that start, run, end or are looked at just then."""
    if user != "-" and not ROOT:
        pytest.skip("only root can become another user")
    python = sys.executable if user == "-" else "/usr/bin/python3"
    draw = random.Random(7)
    there = everything()
    for _ in range(rounds):
        before = set(descendants())
        process = subprocess.Popen(
            [python, str(DRIVER), user, "churn"],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={"PYTHONPATH": str(DRIVER.parents[2])},
        )
        with process:
            assert process.stdout.readline() == b"it runs\n"
            time.sleep(draw.uniform(0.0, 2.0))
            process.send_signal(signal.SIGKILL)
        assert gone(lambda before=before: set(descendants()) - before)
    assert everything() == there


def everything():
    """All that a shell could leave: mounts, files, descriptors."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "mounts": [line for line in mounts if "/containers/" not in line],
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": sorted(os.listdir("/mnt") + os.listdir("/dev/shm")),
    }


def test_nothing_is_left():
    """After many shells: no process, mount, file, descriptor."""
    before, there = set(descendants()), everything()

    async def main():
        sandbox = BubblewrapSandbox(3)

        async def one():
            async with sandbox.shell() as shell:
                await shell.start_shell(terminal=False, limit_s=20)
                await shell.type("sleep 1000 & echo > /tmp/x", limit_s=20)
                await shell.end(keep_processes=True)
                await shell.look("cat /tmp/x", limit_s=20)

        await asyncio.gather(*(one() for _ in range(12)))
        await sandbox.close()

    asyncio.run(main())
    assert gone(lambda: set(descendants()) - before)
    assert everything() == there


def test_cancelled():
    """A shell whose user is cancelled ends, and its place is free again."""
    before = set(descendants())

    async def main():
        sandbox = BubblewrapSandbox(1)

        async def hang():
            async with sandbox.shell() as shell:
                await shell.start_shell(terminal=False, limit_s=20)
                await shell.type("sleep 1000", limit_s=1000)

        task = asyncio.ensure_future(hang())
        while not any(b"sleep" in line for _, line in set(descendants()) - before):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with sandbox.shell() as shell:
            run = await shell.script("bash", "echo a", limit_s=20)
        await sandbox.close()
        return run.output

    assert asyncio.run(main()) == b"a\n"
    assert gone(lambda: set(descendants()) - before)


@pytest.mark.parametrize("what", SIGNS[:2])
def test_killed_from_outside(what):
    """Our fault, hence an error, and the next shell works."""
    before = set(descendants())

    async def main():
        sandbox = BubblewrapSandbox(1)
        async with sandbox.shell() as shell:
            new = set(descendants()) - before
            mine = [int(pid) for pid, line in new if what in line]
            os.kill(max(mine), signal.SIGKILL)
            with pytest.raises(SandboxError):
                await shell.script("bash", "sleep 0.1", limit_s=20)
                await shell.end()
                await shell.look("echo a", limit_s=20)
        async with sandbox.shell() as shell:
            assert (await shell.script("bash", "echo a", limit_s=20)).status == 0
        await sandbox.close()
        with pytest.raises(SandboxError, match="closed"):
            async with sandbox.shell():
                pass

    asyncio.run(main())
    assert gone(lambda: set(descendants()) - before)
