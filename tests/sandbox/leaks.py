"""Runs harmless programs and compares what was there before and after. No test module.

Usage: `leaks.py UID RUNS` (UID `-` for who we are). Prints one JSON object.
"""

import asyncio
import gc
import json
import os
import statistics
import sys
import time
from pathlib import Path

from cycleqd_jax.sandbox.base import Program
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from footprint import become, children, state

WORKERS = 2
WARM_UP = 50
PROGRAMS = (
    (Program(("echo", "word")), b"word\n"),
    (Program(("cat",), stdin=b"in"), b"in"),
    (Program(("python3", "-S", "-c", "print(sum(range(99)))")), b"4851\n"),
    (
        Program(("bash", "-c", "echo $((6 * 7)) | tee x; rm y", "y"), collect=True),
        b"42\n",
    ),
    (Program(("sh", "-c", "sleep 100 & cat a/b"), files=(("a/b", b"f"),)), b"f"),
)


def resident_bytes() -> int:
    """Memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def main() -> None:
    """Warms up, looks, runs, looks again."""
    become(sys.argv[1])
    runs = int(sys.argv[2])
    sandbox = BubblewrapSandbox(WORKERS)
    seconds = []
    wrong = []

    async def some(numbers) -> None:
        for number in numbers:
            program, expected = PROGRAMS[number % len(PROGRAMS)]
            start = time.monotonic()
            execution = await sandbox.run(program)
            seconds.append(time.monotonic() - start)
            if execution.stdout != expected:
                wrong.append(str(execution))

    async def work(count: int) -> None:
        numbers = iter(range(count))
        await asyncio.gather(*(some(numbers) for _ in range(WORKERS)))

    await work(WARM_UP)
    seconds.clear()
    before, memory_before = state(), resident_bytes()
    start = time.monotonic()
    await work(runs)
    total_s = time.monotonic() - start
    after, memory_after = state(), resident_bytes()
    await sandbox.close()
    json.dump(
        {
            "runs": len(seconds),
            "wrong": wrong[:5],
            "left": {
                name: [item for item in after[name] if item not in before[name]]
                for name in after
                if after[name] != before[name]
            },
            "children": children(),
            "counts": {name: [len(before[name]), len(after[name])] for name in after},
            "memory_bytes": [memory_before, memory_after],
            "seconds": total_s,
            "median_s": statistics.median(seconds),
            "longest_s": max(seconds),
            "uid": os.getuid(),
        },
        sys.stdout,
    )


asyncio.run(main())
