"""Plays harmless episodes and compares what was there before and after. No test module.

Usage: `many.py UID EPISODES` (UID `-` for who we are). Prints one JSON object.
"""

import asyncio
import concurrent.futures.thread  # noqa: F401 - else loaded when it may not be any more
import gc
import json
import os
import pathlib
import sys
import time

from cycleqd_jax.chat import Reply
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.sandbox.settings import SandboxSettings
from cycleqd_jax.tasks.base import TaskSettings
from cycleqd_jax.tasks.os_interaction.task import OSInteraction

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "sandbox"))
from footprint import become, children, state

WORKERS, AT_ONCE, WARM_UP = 2, 8, 8
BASH = "Act: bash\n\n```bash\n{}\n```"
# Problem, commands, answer, whether it is right.
EPISODES = (
    (27, "wc -l < /root/matrix.txt", "3", True),
    (27, "sleep 1000 &", "4", False),
    (154, "find /home -type f -size 0", "2", True),
    (22, "ls -R /working", "no", True),
    (151, "ls -a /home; cd /tmp; touch x", "8", True),
)


def resident_bytes() -> int:
    """Memory of this process."""
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def main(count: int) -> None:
    """Warms up, looks, plays, looks again."""
    folder = pathlib.Path(os.environ["CYCLEQD_BENCHMARK_DATA"]) / "os_interaction"
    task = OSInteraction(TaskSettings(options={"data": str(folder)}))
    sandbox = make_sandbox(SandboxSettings(workers=WORKERS))  # as in a run
    wrong = []

    async def one(number: int) -> None:
        index, code, answer, right = EPISODES[number % len(EPISODES)]
        replies = iter((BASH.format(code), f"Act: answer({answer})"))

        async def chat(messages, options=None) -> Reply:
            return Reply(next(replies))

        result = await task.run(task.problem(index), chat, sandbox)
        if (result.score == 1.0) != right:
            wrong.append(str(result))

    async def play(numbers) -> None:
        for number in numbers:
            await one(number)

    async def work(total: int) -> None:
        numbers = iter(range(total))
        await asyncio.gather(*(play(numbers) for _ in range(AT_ONCE)))

    await work(WARM_UP)
    before, memory_before = state(), resident_bytes()
    start, processor_s = time.monotonic(), sum(os.times()[:4])
    await work(count)
    total_s = time.monotonic() - start
    processor_s = sum(os.times()[:4]) - processor_s
    after, memory_after = state(), resident_bytes()
    await sandbox.close()
    json.dump(
        {
            "episodes": count,
            "wrong": wrong[:5],
            "left": {
                name: [item for item in after[name] if item not in before[name]]
                for name in after
                if after[name] != before[name]
            },
            "children": children(),
            "memory_bytes": [memory_before, memory_after],
            "per_second": count / total_s,
            "processor_s_each": processor_s / count,
        },
        sys.stdout,
    )


become(sys.argv[1])
asyncio.run(main(int(sys.argv[2])))
