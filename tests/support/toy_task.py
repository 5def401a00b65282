"""Tasks for tests: a program in the sandbox sums the reply, the sum decides."""

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
        program = Program(("cksum",), stdin=reply.text.encode())
        execution = await sandbox.run(program)
        total = int(execution.stdout.split()[0])
        solved = total % 5 < 2
        return Result(
            Outcome.SOLVED if solved else Outcome.WRONG, reply.text, str(total), 1
        )


class ToyA(ToyTask):
    name = "toy_a"


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
