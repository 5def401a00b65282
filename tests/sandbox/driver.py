"""Runs all hostile programs, as root or as somebody else. No test module.

Usage: `driver.py UID` (`-` for who we are). Prints one JSON object: for each threat
what was wrong, and what was left behind. It is a process of its own, since a user id
that was given up cannot be taken back.
"""

import asyncio
import json
import os
import random
import socket
import sys
import time
from pathlib import Path

from cycleqd_jax.sandbox.base import Program
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from threats import PATIENT, THREATS

HARMLESS = Program(
    (
        "python3",
        "-c",
        "import os; os.wait() if os.fork() else 0; print(sum(range(99)))",
    ),
    limits=PATIENT,
)


def become(uid: str) -> None:
    """Gives up root for the user `uid`."""
    if uid != "-":
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))


async def judge(sandbox, threat, words) -> list[str]:
    """What is wrong with the sandbox, as this threat shows it."""
    hostile = asyncio.ensure_future(sandbox.run(threat.program(words)))
    beside = await sandbox.run(HARMLESS)
    execution = await hostile
    wrong = []
    if beside.stdout.split() != [b"4851"] * 2:
        wrong.append(f"the harmless program was disturbed: {beside}")
    if b"escaped" in execution.stdout or not threat.expect(execution):
        wrong.append(f"reported as {str(execution)[:1500]}")
    return wrong


def processes(token: str) -> list[str]:
    """The command lines of living processes that have `token` in them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if token in line:
            found.append(line)
    return found


def children() -> list[str]:
    """Our children, zombies too."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(f"{file} {fields[0]}")
    return found


def state() -> dict[str, list[str]]:
    """What a run may not change: descriptors, mounts, shared memory."""
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "mounts": Path("/proc/self/mountinfo").read_text().splitlines(),
        "ipc": Path("/proc/sysvipc/shm").read_text().splitlines(),
    }


async def main() -> None:
    """All threats, eight at a time, each with a harmless program beside it."""
    become(sys.argv[1])
    sandbox = BubblewrapSandbox(workers=4)
    token = str(random.SystemRandom().randrange(10**7, 10**8))
    secret = Path("secret")
    secret.write_text("a secret of the host")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind(f"\0hostile-{token}")
        abstract.listen()
        words = {
            "TOKEN": token,
            "SECRET": str(secret.absolute()),
            "PORT": str(listener.getsockname()[1]),
            "PID": str(os.getpid()),
        }
        os.environ["HOSTILE_SECRET"] = "a secret of the host"
        await sandbox.run(HARMLESS)
        before = state()
        start = time.monotonic()
        names = sys.argv[2:] or list(THREATS)
        results = await asyncio.gather(
            *(judge(sandbox, THREATS[name], words) for name in names)
        )
        seconds = time.monotonic() - start
        await sandbox.close()
        left = {name: value for name, value in state().items() if value != before[name]}
        left["processes"] = processes(token)
        left["children"] = children()
    secret.unlink()
    left["files"] = os.listdir(".") + os.listdir(os.environ["TMPDIR"])
    json.dump(
        {
            "wrong": dict(zip(names, results, strict=True)),
            "left": {name: value for name, value in left.items() if value},
            "uid": os.getuid(),
            "seconds": seconds,
        },
        sys.stdout,
    )


asyncio.run(main())
