"""Tasks for tests: the POSIX checksum of the reply decides.

A program in the sandbox makes that of the first task. The others make the same here:
a process for every reply took a third of the time of all tests of runs.
"""

import hashlib

from cycleqd_jax.sandbox.base import Program
from cycleqd_jax.tasks.base import Outcome, Problem, Result, Split


class ToyTask:
    """Any model can play; what it scores is arbitrary but always the same."""

    name = "toy"
    max_new_tokens = 6

    def __init__(self, settings):
        self._problems = {
            split: tuple(
                Problem(f"{self.name}/{split}/{i}", f"{self.name} {split} {i}", "ok")
                for i in range(count)
            )
            for split, count in settings.sizes.items()
        }
        content = repr((self.name, settings.seed, self._problems))
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def problems(self, split: Split):
        return self._problems.get(split, ())

    def dialogue(self, problem):
        return [
            {"role": "user", "content": problem.prompt},
            {"role": "assistant", "content": problem.answer},
        ]

    async def run(self, problem, chat, sandbox):
        reply = await chat(self.dialogue(problem)[:1])
        total = await self.checksum(reply.text.encode(), sandbox)
        solved = total % 5 < 2
        return Result(
            Outcome.SOLVED if solved else Outcome.WRONG, reply.text, str(total), 1
        )

    async def checksum(self, content: bytes, sandbox) -> int:
        return cksum(content)


def cksum(content: bytes) -> int:
    """The number that `cksum` prints: CRC-32, high bit first, of bytes and length."""
    length = len(content)
    crc = 0
    for byte in content + length.to_bytes((length.bit_length() + 7) // 8, "little"):
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x104C11DB7 if crc >> 31 else 0)
    return crc ^ 0xFFFFFFFF


class ToyA(ToyTask):
    name = "toy_a"

    async def checksum(self, content, sandbox):
        execution = await sandbox.run(Program(("cksum",), stdin=content))
        return int(execution.stdout.split()[0])


class ToyB(ToyTask):
    name = "toy_b"


class ToyC(ToyTask):
    name = "toy_c"


class ToyD(ToyTask):
    name = "toy_d"


class ToyE(ToyTask):
    name = "toy_e"


class ToyUnknown(ToyTask):
    """Has no right answers outside `train`."""

    name = "toy_unknown"

    def reference(self, problem):
        return None
