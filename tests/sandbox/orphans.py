"""Kills processes that run programs, and looks whether these survive. No test module.

Usage: `orphans.py UID ROUNDS` (UID `-` for who we are). Prints one JSON object.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from cycleqd_jax.sandbox.base import Program
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from footprint import become, children, state

PROGRAMS = (
    Program(("sleep", "1000")),
    Program(("bash", "-c", "setsid sleep 1000 & trap '' TERM HUP; sleep 1000")),
    Program(("true",)),
    Program(("python3", "-c", "print(sum(range(99)))"), collect=True),
)
WORKERS = 3
MEDIAN_PAUSE_S = 0.1
LONGEST_S = 20.0  # until all are gone; milliseconds on a free machine


async def endless(sandbox: BubblewrapSandbox) -> None:
    """Runs programs without end."""

    async def one(program: Program) -> None:
        while True:
            await sandbox.run(program)

    await asyncio.gather(*(one(program) for program in PROGRAMS))


def children_of(pid: str) -> list[str]:
    """Process ids, empty where `pid` is gone."""
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def wait_for_grandchild(pid: int) -> None:
    """Returns as soon as bubblewrap has made the first process of a sandbox.

    At this moment that process waits for bubblewrap, and for ever if that dies.
    """
    end = time.monotonic() + LONGEST_S
    known = {grand for child in children_of(str(pid)) for grand in children_of(child)}
    while time.monotonic() < end:
        for child in children_of(str(pid)):
            if not known.issuperset(children_of(child)):
                return


def a_round(sandbox: BubblewrapSandbox, pause_s: float) -> tuple[int, list[str]]:
    """(Processes at the moment of the kill, those that are still there later)."""
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(endless(sandbox))
        finally:
            os._exit(1)
    time.sleep(pause_s)
    if pause_s > MEDIAN_PAUSE_S:
        wait_for_grandchild(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    orphans = len(children())
    end = time.monotonic() + LONGEST_S
    while (survivors := children()) and time.monotonic() < end:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.005)
    for line in survivors:
        os.kill(int(line.split("/")[2]), signal.SIGKILL)
    return orphans, survivors


def main() -> None:
    """Rounds with a kill at a random moment each."""
    become(sys.argv[1])
    draw = random.Random(5)
    sandbox = BubblewrapSandbox(WORKERS)
    before = state()
    rounds = [
        a_round(sandbox, draw.uniform(0, 2 * MEDIAN_PAUSE_S))
        for _ in range(int(sys.argv[2]))
    ]
    after = state()
    json.dump(
        {
            "orphans": [orphans for orphans, _ in rounds],
            "survivors": [line for _, survivors in rounds for line in survivors],
            "changed": [name for name in after if after[name] != before[name]],
            "uid": os.getuid(),
        },
        sys.stdout,
    )


main()
