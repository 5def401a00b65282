"""A task with a name and problems, and nothing behind them."""

from cycleqd_jax.tasks.base import Problem, Split


class NamedTask:
    max_new_tokens, fingerprint = 1, "0"

    def __init__(self, name, count=4):
        self.name = name
        self._problems = {
            split: [Problem(f"{name}/{split}/{i}", "?", "!") for i in range(count)]
            for split in Split
        }

    def problems(self, split):
        return self._problems[split]

    def dialogue(self, problem):
        return [
            {"role": "user", "content": problem.prompt},
            {"role": "assistant", "content": problem.answer},
        ]
