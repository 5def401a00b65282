"""Coroutines that run together and are stopped together."""

import asyncio
from collections.abc import Coroutine


class Tasks:
    """Running coroutines.

    Attributes:
      failed: a future that gets the exception of the first coroutine that fails.
    """

    def __init__(self):
        self.failed = asyncio.get_running_loop().create_future()
        self._running: set[asyncio.Task] = set()

    def start(self, coroutine: Coroutine) -> asyncio.Task:
        """Starts a coroutine."""
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self) -> None:
        """Cancels all coroutines that still run and waits for them."""
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
