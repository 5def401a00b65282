"""Limits how many programs run at once, and lets one run alone."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator


class Gate:
    """Gives callers the slots 0 to `slots` - 1, or all slots to one caller.

    First come, first served. A caller that wants to be alone goes before all others
    that wait, so it waits only for what is running.
    """

    def __init__(self, slots: int):
        self._free = list(reversed(range(slots)))
        self._slots = slots
        self._alone = False
        self._waiting: collections.deque[tuple[asyncio.Future[int], bool]] = (
            collections.deque()
        )

    @contextlib.asynccontextmanager
    async def enter(self, *, alone: bool = False) -> AsyncIterator[int]:
        """Waits for a free slot, or for all of them, and holds it.

        Args:
          alone: wait until no other slot is used; the slot is then 0.

        Yields:
          The number of the slot, from 0.
        """
        slot = await self._acquire(alone)
        try:
            yield slot
        finally:
            self._release(slot, alone)

    async def _acquire(self, alone: bool) -> int:
        future = asyncio.get_running_loop().create_future()
        entry = (future, alone)
        if alone:
            self._waiting.appendleft(entry)
        else:
            self._waiting.append(entry)
        self._admit()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # admitted, then cancelled
                self._release(future.result(), alone)
            else:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                self._admit()
            raise

    def _release(self, slot: int, alone: bool) -> None:
        if alone:
            self._alone = False
        else:
            self._free.append(slot)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and not self._alone:
            future, alone = self._waiting[0]
            if (alone and len(self._free) < self._slots) or not self._free:
                return
            self._waiting.popleft()
            if future.cancelled():
                continue
            self._alone = alone
            future.set_result(0 if alone else self._free.pop())
