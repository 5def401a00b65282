"""Something made once, however many coroutines ask for it."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Once(Generic[Key, Value]):
    """Values by key; those who ask while one is made share the work.

    An exception goes to all who wait and is not remembered. When nobody waits any more
    the work is cancelled.
    """

    def __init__(self):
        self._known: dict[Key, Value] = {}
        self._running: dict[Key, _Work[Value]] = {}

    async def get(self, key: Key, make: Callable[[], Awaitable[Value]]) -> Value:
        """The value of a key, made by the first who asks."""
        if key in self._known:
            return self._known[key]
        work = self._running.get(key)
        if work is None:
            work = self._running[key] = _Work(asyncio.ensure_future(make()))
        work.waiting += 1
        try:
            # Shielded, since the others that wait must not be cancelled with us.
            value = await asyncio.shield(work.task)
            self._known[key] = value
            return value
        finally:
            work.waiting -= 1
            if work.waiting == 0:
                self._running.pop(key, None)
                if not work.task.done():
                    work.task.cancel()
                    await asyncio.wait((work.task,))


@dataclasses.dataclass
class _Work(Generic[Value]):
    """Work under way and how many wait for it."""

    task: asyncio.Future[Value]
    waiting: int = 0
