"""Time that an idle machine would not need does not count."""

import asyncio
import os
import subprocess
import sys
import time

import pytest

from cycleqd_jax.sandbox import pace

BURN = "import time\nwhile time.process_time() < 1: pass"


def timed(command, limit_s):
    """(Whether it ended in time, seconds that count, seconds on the clock)."""

    async def main():
        process = subprocess.Popen(command)
        start = time.monotonic()

        async def work():
            while process.poll() is None:
                await asyncio.sleep(0.01)
            return True

        try:
            result, taken_s = await pace.within(work(), limit_s, lambda: {process.pid})
        finally:
            process.kill()
            process.wait()
        return result, taken_s, time.monotonic() - start

    return asyncio.run(main())


def test_waiting_counts():
    result, taken_s, _ = timed(["sleep", "100"], 1.0)
    assert result is None
    assert 1.0 <= taken_s < 3.0


def test_processor_time_counts():
    """Of a process that has to share its processor, only what it gets."""
    rivals = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(3 * (os.cpu_count() or 1))
    ]
    try:
        result, taken_s, clock_s = timed([sys.executable, "-c", BURN], 30.0)
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()
    assert result
    assert taken_s < max(3.0, 0.7 * clock_s)


def test_failure_is_passed_on():
    async def broken():
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        asyncio.run(pace.within(broken(), 1.0, set))
