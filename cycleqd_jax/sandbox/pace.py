"""Time as an idle machine would count it (`_watch`), of processes seen from outside."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TypeVar

from cycleqd_jax.sandbox._watch import LEAST_SHARE, MOST_WAIT_S

Value = TypeVar("Value")
_LOOK_S = 0.5
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


async def within(
    work: Awaitable[Value], limit_s: float, roots: Callable[[], Collection[int]]
) -> tuple[Value | None, float]:
    """Waits for work, but no longer than a limit.

    Args:
      work: is cancelled at the limit.
      limit_s: seconds, as an idle machine would count them.
      roots: ids of the processes that do it, with their descendants.

    Returns:
      (its result, or None at the limit; seconds that it took).
    """
    task = asyncio.ensure_future(work)
    taken_s, before, used_before, waited_s = 0.0, time.monotonic(), 0.0, 0.0
    try:
        while True:
            left_s = max(0.0, limit_s - taken_s)
            await asyncio.wait({task}, timeout=min(_LOOK_S, left_s))
            now = time.monotonic()
            passed, before = now - before, now
            if task.done():
                return task.result(), taken_s + passed
            states, used_s = _look(roots())
            if "R" in states or ("D" in states and waited_s < MOST_WAIT_S):
                used = max(0.0, used_s - used_before)
                counted = min(passed, max(used, LEAST_SHARE * passed))
                waited_s += 0.0 if "R" in states else passed - counted
                passed = counted
            taken_s, used_before = taken_s + passed, used_s
            if taken_s >= limit_s:
                return None, taken_s
    finally:
        task.cancel()
        await asyncio.wait({task})


def _look(roots: Collection[int]) -> tuple[set[str], float]:
    """(States, processor seconds) of processes and their children."""
    rows: dict[int, list[str]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
                rows[int(name)] = text.rpartition(")")[2].split()
    below = set(roots) & set(rows)
    while new := {pid for pid, row in rows.items() if int(row[1]) in below} - below:
        below |= new
    ticks = sum(int(n) for pid in below for n in rows[pid][11:15])
    return {rows[pid][0] for pid in below}, ticks * _TICK_S
