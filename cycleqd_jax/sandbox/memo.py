"""Runs a program once, however often it is asked for."""

import asyncio
import collections
import dataclasses

from cycleqd_jax.sandbox.base import Execution, Program, Sandbox


class MemoSandbox:
    """Remembers what became of a program and answers the same program from memory.

    Only for programs that are deterministic: one that reads the clock, random numbers
    or process ids would get the same answer again. Programs are the same when all
    their fields are equal. Requests for a program that runs already share that run.
    A `SandboxError` goes to all that wait for the run and is not remembered.

    Args:
      inner: the sandbox that runs programs; closed with this one.
      max_entries: how many results are kept, the least recently used dropped first.
    """

    def __init__(self, inner: Sandbox, max_entries: int = 65_536):
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, got {max_entries}")
        self._inner = inner
        self._max_entries = max_entries
        self._known: collections.OrderedDict[Program, Execution] = (
            collections.OrderedDict()
        )
        self._running: dict[Program, _Run] = {}

    async def run(self, program: Program) -> Execution:
        """As the inner sandbox's `run`, or what that gave before."""
        if program in self._known:
            self._known.move_to_end(program)
            return self._known[program]
        run = self._running.get(program)
        if run is None:
            run = _Run(asyncio.ensure_future(self._first(program)))
            self._running[program] = run
        run.waiting += 1
        try:
            # Shielded, since the others that wait must not be cancelled with us.
            return await asyncio.shield(run.task)
        finally:
            run.waiting -= 1
            if run.waiting == 0 and not run.task.done():
                self._forget(program, run)
                run.task.cancel()
                await asyncio.wait((run.task,))

    async def close(self) -> None:
        """Closes the inner sandbox and forgets all results."""
        await self._inner.close()
        self._known.clear()

    async def _first(self, program: Program) -> Execution:
        run = self._running[program]
        try:
            execution = await self._inner.run(program)
        finally:
            self._forget(program, run)
        self._known[program] = execution
        while len(self._known) > self._max_entries:
            self._known.popitem(last=False)
        return execution

    def _forget(self, program: Program, run: "_Run") -> None:
        if self._running.get(program) is run:
            del self._running[program]


@dataclasses.dataclass
class _Run:
    """A run under way and how many wait for it."""

    task: asyncio.Future[Execution]
    waiting: int = 0
