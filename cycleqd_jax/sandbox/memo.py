"""A sandbox that remembers what programs did, and runs each of them once."""

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import marshal
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

from cycleqd_jax.sandbox.base import Execution, Program, Sandbox, Shell

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
_MAX_BYTES = 2**28
_ENTRY_BYTES = 1024  # of an entry with no content: key, objects, links


class MemoSandbox:
    """Runs each program once and answers the same program from memory.

    Only for deterministic programs: a program that reads the clock, random numbers or
    process ids gets its first result again. Two programs are the same if all their
    fields are equal. A program that is asked for while it runs is not started again. A
    `SandboxError` goes to all who wait for the run and is not remembered.

    Args:
      inner: runs the programs; closed with this sandbox.
      max_bytes: of all remembered results; the least recently used are dropped first.
    """

    def __init__(self, inner: Sandbox, max_bytes: int = _MAX_BYTES):
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be at least 0, got {max_bytes}")
        self._inner = inner
        self._max_bytes = max_bytes
        self._bytes = 0
        # By hash, since some programs are larger than their results.
        self._known: collections.OrderedDict[bytes, Execution] = (
            collections.OrderedDict()
        )
        self._runs: SharedRuns[bytes, Execution] = SharedRuns()

    async def run(self, program: Program) -> Execution:
        """The result of the inner sandbox's `run`, now or earlier."""
        key = _hash(program)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        return await self._runs.get(key, lambda: self._first(key, program))

    def shell(self, *given: Any) -> contextlib.AbstractAsyncContextManager[Shell]:
        """A shell of the inner sandbox; nothing of it is remembered."""
        return self._inner.shell(*given)

    async def close(self) -> None:
        """Closes the inner sandbox and forgets all results."""
        await self._inner.close()
        self._known.clear()
        self._bytes = 0

    async def _first(self, key: bytes, program: Program) -> Execution:
        execution = await self._inner.run(program)
        self._known[key] = execution
        self._bytes += _size(execution)
        while self._bytes > self._max_bytes:
            _, dropped = self._known.popitem(last=False)
            self._bytes -= _size(dropped)
        return execution


class SharedRuns(Generic[Key, Value]):
    """Work by key: whoever asks for a key while its work is under way shares the work.

    A result or an exception goes to all who wait; nothing is remembered. When nobody
    waits any more, the work is cancelled.
    """

    def __init__(self):
        self._running: dict[Key, _Run[Value]] = {}

    async def get(self, key: Key, make: Callable[[], Awaitable[Value]]) -> Value:
        """Returns the value of `make`, or of the call under way for the same key."""
        run = self._running.get(key)
        if run is None:
            run = self._running[key] = _Run(asyncio.ensure_future(make()))
        run.waiting += 1
        try:
            # Shielded, since the others that wait must not be cancelled with us.
            return await asyncio.shield(run.task)
        finally:
            run.waiting -= 1
            if run.task.done() or not run.waiting:
                if self._running.get(key) is run:
                    del self._running[key]
            if not run.task.done() and not run.waiting:
                run.task.cancel()
                await asyncio.wait((run.task,))


@dataclasses.dataclass
class _Run(Generic[Value]):
    """Work under way and how many wait for it."""

    task: asyncio.Future[Value]
    waiting: int = 0


def _hash(program: Program) -> bytes:
    """SHA-256 of all fields."""
    return hashlib.sha256(marshal.dumps(dataclasses.astuple(program), 2)).digest()


def _size(execution: Execution) -> int:
    """Bytes that one entry takes."""
    files = sum(len(name) + len(data) for name, data in execution.files.items())
    return _ENTRY_BYTES + len(execution.stdout) + len(execution.stderr) + files
