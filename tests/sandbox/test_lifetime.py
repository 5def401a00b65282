"""Nothing outlives its run, its caller or its parent; who is late runs once more."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from cycleqd_jax.sandbox.base import Ending, Limits, Program
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.sandbox.memo import MemoSandbox

sys.path.insert(0, str(Path(__file__).parent))
from footprint import WHO, drive

ORPHANS = Path(__file__).with_name("orphans.py")


@pytest.mark.parametrize("who", WHO)
def test_all_dies_with_a_parent_that_is_killed(who):
    found = json.loads(drive(ORPHANS, who, "8", timeout_s=300))
    assert (found["uid"] == 0) == (who == "root")
    assert found["survivors"] == []
    assert found["changed"] == []
    assert max(found["orphans"]) > 0  # else there was nothing to survive


class Recording(BubblewrapSandbox):
    """Notes for each start of a program whether it was alone."""

    def __init__(self):
        super().__init__(workers=2)
        self.alone = []
        self.late = 0  # how many starts are made to look too slow

    async def _once(self, program, slot):
        self.alone.append(self._gate._alone)
        if self.late:
            self.late -= 1
            program = Program(("sleep", "5"), limits=Limits(wall_s=0.2))
        return await super()._once(program, slot)


LATE = Program(("sleep", "1000"), limits=Limits(wall_s=0.2))


def test_a_program_that_is_late_runs_once_more_alone():
    sandbox = Recording()
    execution = asyncio.run(sandbox.run(LATE))
    assert execution.ending is Ending.WALL_LIMIT
    assert sandbox.alone == [False, True]


def test_only_the_run_alone_counts():
    sandbox = Recording()
    sandbox.late = 1  # as beside a busy machine
    assert asyncio.run(sandbox.run(Program(("echo", "in time")))).stdout == b"in time\n"
    assert sandbox.alone == [False, True]


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",  # CPU time does not depend on load, so it counts at once
        "raise SystemExit(3)",
        "while True: print('x' * 1000)",
        "import os; os.kill(os.getpid(), 9)",
        "for n in range(10**6): open(str(n), 'w').close()",
    ],
)
def test_every_other_ending_counts_at_once(source):
    sandbox = Recording()
    execution = asyncio.run(
        sandbox.run(Program(("python3", "-c", source), limits=Limits(cpu_s=1.0)))
    )
    assert not execution.ok
    assert execution.ending is not Ending.WALL_LIMIT
    assert sandbox.alone == [False]


def test_what_counts_is_remembered():
    sandbox = Recording()
    memo = MemoSandbox(sandbox)

    async def several():
        together = await asyncio.gather(*(memo.run(LATE) for _ in range(3)))
        return {execution.ending for execution in [*together, await memo.run(LATE)]}

    assert asyncio.run(several()) == {Ending.WALL_LIMIT}
    assert sandbox.alone == [False, True]  # not twice for each of the four
