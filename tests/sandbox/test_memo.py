import asyncio
import dataclasses

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.base import Ending, Execution, Program
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.sandbox.memo import MemoSandbox
from cycleqd_jax.sandbox.settings import SandboxSettings


class Counting:
    """Answers with how often it ran; fails while `failing`."""

    def __init__(self):
        self.runs = 0
        self.cancelled = 0
        self.failing = False
        self.closed = False
        self.seconds = 0.01
        self.output = b""

    async def run(self, program):
        self.runs += 1
        number = self.runs
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failing:
            raise SandboxError("no")
        return Execution(Ending.EXITED, number, self.output, b"")

    async def close(self):
        self.closed = True


A, B, C = (Program(("echo", name)) for name in "abc")


def test_same_program_runs_once():
    inner = Counting()
    memo = MemoSandbox(inner)

    async def main():
        together = await asyncio.gather(*(memo.run(A) for _ in range(5)))
        return [*together, await memo.run(Program(("echo", "a"))), await memo.run(B)]

    codes = [execution.exit_code for execution in asyncio.run(main())]
    assert codes == [1] * 6 + [2]


def test_different_limits_or_input_are_different_programs():
    inner = Counting()
    memo = MemoSandbox(inner)

    async def main():
        await memo.run(A)
        await memo.run(Program(("echo", "a"), stdin=b"x"))
        await memo.run(Program(("echo", "a"), collect=True))

    asyncio.run(main())
    assert inner.runs == 3


def test_least_recently_used_goes_first():
    inner = Counting()
    inner.output = b"x" * 100_000
    memo = MemoSandbox(inner, max_bytes=250_000)  # two results

    async def main():
        for program in (A, B, A, C, A, B):
            await memo.run(program)

    asyncio.run(main())
    assert inner.runs == 4  # A, B, C, and B again


def remembered(output: bytes, files: dict[str, bytes], max_bytes: int) -> int:
    """How many of 40 programs with this result are remembered."""

    class Inner(Counting):
        async def run(self, program):
            execution = await super().run(program)
            return dataclasses.replace(execution, files=files)

    inner = Inner()
    inner.output, inner.seconds = output, 0
    memo = MemoSandbox(inner, max_bytes)

    async def main():
        programs = [Program(("echo", str(i)), stdin=b"y" * 10_000) for i in range(40)]
        for program in programs:
            await memo.run(program)
        for program in reversed(programs):
            await memo.run(program)

    asyncio.run(main())
    return 80 - inner.runs


def test_what_is_remembered_is_bounded_in_bytes():
    assert remembered(b"x" * 100_000, {}, 10**6) == 9
    assert remembered(b"", {"a/b": b"x" * 50_000, "c": b"x" * 50_000}, 10**6) == 9
    assert remembered(b"", {}, 20_000) == 19  # an empty result takes something too
    assert remembered(b"", {}, 10**6) == 40  # whatever the size of the programs
    assert remembered(b"x", {}, 0) == 0
    assert remembered(b"x" * 10**6, {}, 10**6) == 0  # larger than the limit by itself


def test_errors_are_shared_but_not_kept():
    inner = Counting()
    inner.failing = True
    memo = MemoSandbox(inner)

    async def main():
        first = await asyncio.gather(memo.run(A), memo.run(A), return_exceptions=True)
        inner.failing = False
        return first, await memo.run(A)

    first, second = asyncio.run(main())
    assert [type(error) for error in first] == [SandboxError] * 2
    assert second.exit_code == inner.runs == 2


def test_cancelling_one_does_not_cancel_the_other():
    inner = Counting()
    memo = MemoSandbox(inner)

    async def main():
        one, other = (asyncio.ensure_future(memo.run(A)) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        return await asyncio.gather(one, other, return_exceptions=True)

    one, other = asyncio.run(main())
    assert isinstance(one, asyncio.CancelledError)
    assert other.exit_code == 1
    assert inner.cancelled == 0


def test_cancelling_all_cancels_the_run():
    inner = Counting()
    inner.seconds = 1000
    memo = MemoSandbox(inner)

    async def main():
        tasks = [asyncio.ensure_future(memo.run(A)) for _ in range(2)]
        await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        inner.seconds = 0
        return await memo.run(A)

    assert asyncio.run(main()).exit_code == 2
    assert inner.cancelled == 1


def test_close_closes_the_inner_one():
    inner = Counting()
    asyncio.run(MemoSandbox(inner).close())
    assert inner.closed


def test_make_sandbox():
    assert isinstance(
        make_sandbox(SandboxSettings(kind="none", workers=1, memoise=True)), MemoSandbox
    )
    plain = make_sandbox(SandboxSettings(kind="none", workers=1, memoise=False))
    assert type(plain).__name__ == "UnsafeSandbox"
