"""Coroutines that run beside each other and end together."""

import asyncio
from collections.abc import Coroutine


class Tasks:
    """Coroutines under way: the first that fails is heard of, and all can be ended."""

    def __init__(self):
        self.failed = asyncio.get_running_loop().create_future()
        self._running: set[asyncio.Task] = set()

    def start(self, coroutine: Coroutine) -> asyncio.Task:
        """Runs it beside the others."""
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self) -> None:
        """Ends what still runs."""
        self.failed.cancel()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task) -> None:
        self._running.discard(task)
        if task.cancelled() or task.exception() is None or self.failed.done():
            return
        self.failed.set_exception(task.exception())
