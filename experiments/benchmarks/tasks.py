"""Suite `tasks`: how many episodes a second the benchmarks judge, without a model.

Replies are scripted: of coding the reference solutions, of DBBench a look at the table
and an answer, of OS interaction one command and an answer.
"""

import asyncio
import os
import pathlib
from collections.abc import Callable, Sequence

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.tasks.base import Problem, Task, TaskSettings
from cycleqd_jax.tasks.dbbench.address import VARIABLE
from cycleqd_jax.tasks.registry import make_task
from experiments import replay
from experiments.benchmarks import frame

_AT_ONCE = 32
# Few solutions of MBPP+ take seconds each: they would hide how long all others take.
_SLOW = {f"Mbpp/{i}" for i in (123, 255, 271, 389, 392, 583, 592, 599, 603, 630)}
_LOOK = (
    "I look at the table.\nAction: Operation\n```sql\nSELECT * FROM `{}` LIMIT 3\n```"
)
_DB_ANSWER = 'Now I know.\nAction: Answer\nFinal Answer: ["one"]'
_OS_COMMAND = "Think: I look.\n\nAct: bash\n\n```bash\ncd /tmp && ls | wc -l\n```"
_OS_ANSWER = "Think: Now I know.\n\nAct: answer(3)"


def run(options: frame.Options, say: frame.Say) -> list[frame.Row]:
    """Measures the suite."""
    if options.data is None:
        raise BadInputError(
            "--data: expected the folder of the benchmarks' files for the suite tasks."
        )
    data = pathlib.Path(options.data)
    rows = []
    for name, backend, count, make, least in (
        ("mbpp", None, 120, _coding, 20.0),
        ("dbbench", "private", 340, _database, 150.0),
        ("dbbench", "server", 340, _database, 50.0),
        ("os_interaction", None, 60, _system, 20.0),
    ):
        label = f"{name}{f' on {backend}' if backend else ''}: episodes judged"
        if backend == "server" and not os.environ.get(VARIABLE):
            say(f"{VARIABLE} names no server")
            rows.append(frame.not_measured(label, "1/s", least))
            continue
        say(label)
        rows.append(_measure(options, data, name, backend, count, make, label, least))
    return rows


def _measure(
    options: frame.Options,
    data: pathlib.Path,
    name: str,
    backend: str | None,
    count: int,
    make: Callable[[Task, int], list[replay.Case]],
    label: str,
    least: float,
) -> frame.Row:
    file = {"mbpp": "mbpp_plus.jsonl"}.get(name, name)
    chosen = {"data": str(data / file)} | ({"backend": backend} if backend else {})

    async def whole() -> tuple[list[float], float]:
        """Seconds of each repeat, and the CPU time of all, in one loop.

        So what is set up once is not measured; the first repeat warms up.
        """
        task = make_task(name, TaskSettings(options=chosen, download=False))
        sandbox = BubblewrapSandbox(frame.cores())
        cases = make(task, count)
        loop, took = asyncio.get_running_loop(), []
        try:
            await _play(task, cases, sandbox)
            cpu_s = -_cpu_s()
            for _ in range(options.repeats):
                start = loop.time()
                await _play(task, cases, sandbox)
                took.append(loop.time() - start)
            return took, cpu_s + _cpu_s()
        finally:
            await sandbox.close()
            if hasattr(task, "aclose"):
                await task.aclose()

    took, cpu_s = asyncio.run(whole())
    seconds = frame.medians({"": took})[""]
    cpu_ms = 1000 * cpu_s / (count * options.repeats)
    return frame.compare(
        label,
        count / seconds,
        least,
        "1/s",
        target=1.0,
        more_is_better=True,
        note=f"{count} episodes with scripted replies, {frame.cores()} cores"
        + (", none of which takes seconds itself" if name == "mbpp" else "")
        + f"; {cpu_ms:.2g} ms of CPU time an episode"
        + (" without the server's" if backend == "server" else ""),
    )


def _cpu_s(pid: int | None = None) -> float:
    """CPU time of a process, ours if not given, and of all that it started."""
    task = pathlib.Path(f"/proc/{pid or os.getpid()}/task")
    try:
        children = [c for file in task.glob("*/children") for c in _words(file)]
        fields = (task.parent / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    ticks = sum(map(int, fields[11:15]))  # of itself, and of those that have ended
    own = ticks / os.sysconf("SC_CLK_TCK")
    return own + sum(_cpu_s(int(child)) for child in children)


def _words(file: pathlib.Path) -> list[str]:
    return file.read_text().split()


async def _play(task: Task, cases: Sequence[replay.Case], sandbox) -> None:
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(case: replay.Case) -> None:
        async with places:
            await replay.play(task, case, sandbox)

    await asyncio.gather(*map(one, cases))


def _coding(task: Task, count: int) -> list[replay.Case]:
    keys = [key for key in task.data.problems if key not in _SLOW]
    problems = [task.problem(key) for key in keys[:count]]
    return [_case(p, (f"\n{p.answer}\n```",)) for p in problems]


def _database(task: Task, count: int) -> list[replay.Case]:
    problems = [task.problem(index) for index in range(count)]
    return [
        _case(p, (_LOOK.format(p.data["case"].table.name), _DB_ANSWER))
        for p in problems
    ]


def _system(task: Task, count: int) -> list[replay.Case]:
    problems, index = [], 0
    while len(problems) < count:
        try:
            problem = task.problem(index)
        except BadInputError as err:
            raise BadInputError(
                f"--data: expected at least {count} problems of OS interaction that "
                f"this machine can run, there are {len(problems)}."
            ) from err
        if task.why_not(index) is None:
            problems.append(problem)
        index += 1
    return [_case(p, (_OS_COMMAND, _OS_ANSWER)) for p in problems]


def _case(problem: Problem, replies: tuple[str, ...]) -> replay.Case:
    return replay.Case(problem.id, problem, replies)
