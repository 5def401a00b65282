"""Episodes with scripted replies in a real sandbox."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cycleqd_jax.chat import Message, Reply
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.sandbox.settings import SandboxSettings
from cycleqd_jax.tasks.base import Problem, Result, Split, TaskSettings
from cycleqd_jax.tasks.registry import BUILT_IN

SIZES = {Split.TRAIN: 120, Split.OPTIMISE: 64, Split.VALIDATE: 64, Split.TEST: 128}


class Script:
    """A chat that says what it was told to say and remembers what it was asked."""

    def __init__(self, *replies: str):
        self._replies = list(replies)
        self.asked: list[tuple[Message, ...]] = []

    async def __call__(self, messages: Sequence[Message]) -> Reply:
        self.asked.append(tuple(messages))
        return Reply(self._replies[len(self.asked) - 1])


@pytest.fixture(scope="session")
def in_sandbox() -> Callable[[Any], list[Any]]:
    """Awaits what a function makes of a fresh sandbox: a coroutine, or several."""

    def await_all(make):
        async def main():
            sandbox = make_sandbox(
                SandboxSettings(kind="bubblewrap", workers=2, memoise=True)
            )
            try:
                made = make(sandbox)
                if inspect.isawaitable(made):
                    return await made
                return await asyncio.gather(*made)
            finally:
                await sandbox.close()

        return asyncio.run(main())

    return await_all


@pytest.fixture(scope="session")
def play(in_sandbox):
    """Plays (problem, replies) pairs of one task and returns their results."""

    def play_all(
        task, episodes: Sequence[tuple[Problem, Sequence[str]]]
    ) -> list[Result]:
        return in_sandbox(
            lambda sandbox: [
                task.run(problem, Script(*replies), sandbox)
                for problem, replies in episodes
            ]
        )

    return play_all


@pytest.fixture(scope="session")
def script():
    """The scripted chat's class."""
    return Script


@pytest.fixture(scope="session", params=sorted(BUILT_IN))
def task(request):
    """Each skill in turn, with one turn."""
    return BUILT_IN[request.param](TaskSettings(0, SIZES))


@pytest.fixture(scope="session", params=sorted(BUILT_IN))
def two_turn_task(request):
    """Each skill in turn, with two turns."""
    return BUILT_IN[request.param](TaskSettings(0, SIZES, turns=2))


@pytest.fixture(scope="session")
def find_problem():
    """The first problem of a template."""

    def find(task, template: str) -> Problem:
        return next(
            problem
            for split in Split
            for problem in task.problems(split)
            if problem.data["template"] == template
        )

    return find
