"""A task serves several evaluators, one after another."""

import asyncio

from benchmark_data import needs_data

from cycleqd_jax.chat import Reply
from cycleqd_jax.tasks.base import Outcome


@needs_data
def test_an_episode_after_the_end_of_an_evaluator(make_task):
    task = make_task()

    async def chat(messages, options=None):
        return Reply("Act: answer(no)")

    async def episode():
        try:
            return await task.run(task.problem(22), chat, None)
        finally:
            await task.aclose()

    for _ in range(2):
        assert asyncio.run(episode()).outcome is Outcome.SOLVED
