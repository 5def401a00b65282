"""Episodes of OS interaction with scripted replies."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from cycleqd_jax.chat import Reply
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.tasks.base import Problem, Result, TaskSettings
from cycleqd_jax.tasks.os_interaction.task import OSInteraction
from tests.support.benchmark_data import data_folder


class Script:
    """A chat that says what it was told to say, or what a function makes of it."""

    def __init__(self, replies):
        self._replies = replies
        self.asked = []

    async def __call__(self, messages, options=None) -> Reply:
        self.asked.append(messages)
        if callable(self._replies):
            return Reply(self._replies(messages))
        return Reply(self._replies[len(self.asked) - 1])


def bash(code: str) -> str:
    """A reply that runs commands."""
    return f"Think: I run it.\n\nAct: bash\n\n```bash\n{code}\n```"


def answer(text: str) -> str:
    """A reply with an answer."""
    return f"Think: I know.\n\nAct: answer({text})"


FINISH = "Think: done.\n\nAct: finish"


@pytest.fixture(scope="session")
def make_task() -> Callable[..., OSInteraction]:
    """Makes the task with options of its own."""

    def make(sizes=None, **options) -> OSInteraction:
        folder = str(data_folder() / "os_interaction")
        settings = TaskSettings(sizes=sizes or {}, options={"data": folder} | options)
        return OSInteraction(settings)

    return make


@pytest.fixture(scope="session")
def task(make_task):
    """The task with its defaults."""
    return make_task()


@pytest.fixture(scope="session")
def play():
    """Plays (problem, replies) pairs of one task and returns their results."""

    def play_all(
        task, episodes: Sequence[tuple[Problem, object]], at_once: int = 4
    ) -> list[Result]:
        async def main():
            places = asyncio.Semaphore(at_once)

            async def one(problem, replies):
                async with places:
                    return await task.run(problem, Script(replies), sandbox)

            sandbox = BubblewrapSandbox(2)
            try:
                return await asyncio.gather(*(one(*e) for e in episodes))
            finally:
                await sandbox.close()

        return asyncio.run(main())

    return play_all
