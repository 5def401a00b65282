"""Kills processes that run programs, and looks whether these survive. No test module.

Usage: `orphans.py UID ROUNDS` (UID `-` for who we are). Prints one JSON object.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time

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
LONGEST_S = 20.0  # until all are gone; milliseconds on a free machine


async def endless(sandbox: BubblewrapSandbox) -> None:
    """Runs programs without end."""

    async def one(program: Program) -> None:
        while True:
            await sandbox.run(program)

    await asyncio.gather(*(one(program) for program in PROGRAMS))


def a_round(sandbox: BubblewrapSandbox, pause_s: float) -> tuple[int, list[str]]:
    """(Processes at the moment of the kill, those that are still there later)."""
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(endless(sandbox))
        finally:
            os._exit(1)
    time.sleep(pause_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    orphans = len(children())
    end = time.monotonic() + LONGEST_S
    while children() and time.monotonic() < end:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        time.sleep(0.005)
    return orphans, children()


def main() -> None:
    """Rounds with a kill at a random moment each."""
    become(sys.argv[1])
    draw = random.Random(5)
    sandbox = BubblewrapSandbox(WORKERS)
    before = state()
    rounds = [a_round(sandbox, draw.uniform(0, 0.3)) for _ in range(int(sys.argv[2]))]
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
