"""Runs hostile programs, as root or as somebody else. No test module.

Usage: `driver.py UID WEAKENING [THREAT ...]`: UID is `-` for who we are, WEAKENING `-`
for the sandbox as it is (see `weakened.py`), without a THREAT all are run. Prints one
JSON object: for each threat what was wrong, and what was left behind. It is a process
of its own, since a user id that was given up cannot be taken back.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import Program
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from footprint import become, children, processes, state
from threats import THREATS
from threats.base import PATIENT
from weakened import WEAKENINGS

HARMLESS = Program(
    (
        "python3",
        "-c",
        "import os; os.wait() if os.fork() else 0; print(sum(range(99)))",
    ),
    limits=PATIENT,
)
AT_ONCE = 4
PAUSE_S = 0.1  # between two harmless programs beside a hostile one
LONGEST_S = 60.0  # for one hostile program, 0.1 to 2 s on a free machine
LONGEST_HARMLESS_S = 15.0  # 0.03 s on a free machine


async def timed(sandbox, program) -> tuple:
    """(execution, seconds)."""
    start = time.monotonic()
    return await sandbox.run(program), time.monotonic() - start


async def judge(threat, words, sandbox, beside, gate) -> list[str]:
    """What is wrong with the sandbox, as this threat shows it."""
    wrong = []
    async with gate:
        hostile = asyncio.ensure_future(timed(sandbox, threat.program(words)))
        while True:
            execution, seconds = await timed(beside, HARMLESS)
            if execution.stdout.split() != [b"4851"] * 2 or not execution.ok:
                wrong.append(f"the harmless program was disturbed: {execution}")
            if seconds > LONGEST_HARMLESS_S:
                wrong.append(f"the harmless program took {seconds:.1f} s")
            if (await asyncio.wait({hostile}, timeout=PAUSE_S))[0]:
                break
    try:
        execution, seconds = await hostile
    except SandboxError as error:
        return [*wrong, f"the sandbox failed: {error}"]
    if b"escaped" in execution.stdout or not threat.expect(execution):
        wrong.append(f"reported as {str(execution)[:1500]}")
    if seconds > LONGEST_S:
        wrong.append(f"took {seconds:.1f} s")
    return wrong


def received(datagrams: socket.socket) -> list[str]:
    """What has arrived."""
    found = []
    datagrams.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(repr(datagrams.recv(100)))
    return found


@contextlib.contextmanager
def bait():
    """What programs try to get at: yields the words for them, and a UDP socket."""
    token = str(random.SystemRandom().randrange(10**7, 10**8))
    secret, door = Path("secret").absolute(), Path("socket").absolute()
    secret.write_text("a secret of the host")
    os.environ["HOSTILE_SECRET"] = "a secret of the host"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as file,
    ):
        datagrams.bind(("127.0.0.1", 0))
        abstract.bind(f"\0hostile-{token}")
        abstract.listen(1000)
        file.bind(str(door))
        file.listen(1000)
        words = {
            "TOKEN": token,
            "SECRET": str(secret),
            "SOCKET": str(door),
            "PORT": str(listener.getsockname()[1]),
            "UDP": str(datagrams.getsockname()[1]),
            "PID": str(os.getpid()),
        }
        yield words, datagrams
    secret.unlink()
    door.unlink()


async def main() -> None:
    """All threats, some at a time, each with harmless programs beside it."""
    # Loaded on first use, and the other user may not be able to read it.
    concurrent.futures.ThreadPoolExecutor  # noqa: B018
    become(sys.argv[1])
    beside = BubblewrapSandbox(workers=AT_ONCE)
    weakening = WEAKENINGS.get(sys.argv[2])
    sandbox = weakening.sandbox(AT_ONCE) if weakening else BubblewrapSandbox(AT_ONCE)
    names = sys.argv[3:] or list(THREATS)
    with bait() as (words, datagrams):
        await asyncio.gather(sandbox.run(HARMLESS), beside.run(HARMLESS))
        before = state()
        start = time.monotonic()
        gate = asyncio.Semaphore(AT_ONCE)
        results = await asyncio.gather(
            *(judge(THREATS[name], words, sandbox, beside, gate) for name in names)
        )
        seconds = time.monotonic() - start
        await asyncio.gather(sandbox.close(), beside.close())
        await asyncio.sleep(0.2)  # threads that were joined are still seen for a moment
        left = {
            name: [item for item in value if item not in before[name]]
            for name, value in state().items()
        }
        left["processes"] = processes(words["TOKEN"])
        left["children"] = children()
        left["datagrams"] = received(datagrams)
    for line in left["processes"]:
        os.kill(int(line.partition(":")[0]), signal.SIGKILL)
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
