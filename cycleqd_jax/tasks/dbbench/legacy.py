"""Shared databases, as in the reference; for comparison with its numbers only.

The reference names a problem's database after its table, and several problems have
tables of the same name. So they share a database: the first problem makes the table,
the rows of the others are added or refused, each sees what the others do, and the first
to end drops the database for all. The reference plays all problems in rounds, one reply
of each at a time, in the order of their ids; here the problems of a group take turns.

A problem that comes a second time begins its group anew, so several individuals can be
scored, one after another.
"""

import asyncio
from collections.abc import Sequence

from cycleqd_jax.tasks.dbbench.data import Case
from cycleqd_jax.tasks.dbbench.database import Database, open_database
from cycleqd_jax.tasks.dbbench.live_server import LiveServer


class SharedDatabases:
    """The groups of problems whose tables have the same name."""

    def __init__(self, live: LiveServer, cases: Sequence[Case]):
        """Makes no database yet.

        Args:
          live: the server where they are made.
          cases: all problems that are played.
        """
        self._live = live
        self._cases: dict[str, list[Case]] = {}
        for case in sorted(cases, key=lambda case: case.index):
            self._cases.setdefault(case.table.name, []).append(case)
        self._groups: dict[str, _Group] = {}

    async def open(self, case: Case) -> "SharedDatabase":
        """The problem's view of the database that it shares.

        Raises:
          SandboxError: it cannot be made.
        """
        # Joining comes before the first await, so that all problems that are started
        # together are in the group before one of them takes its turn.
        name = case.table.name
        group = self._groups.get(name)
        if group is None or case.index in group.joined:
            members = self._cases.get(name, [])
            first = members if case in members else [case, *members]
            group = self._groups[name] = _Group(self._live, first)
        member = SharedDatabase(group, case)
        try:
            await group.make()
        except BaseException:
            await member.leave()
            raise
        return member


class _Group:
    """One shared database and the problems that use it.

    Attributes:
      joined: the indices of all problems that have come.
      turns: index -> the problem's next turn, as (round, index); the least is next.
      moved: is notified of each change of `turns`.
      database: from its making to its drop.
      dropped: whether it was dropped.
    """

    def __init__(self, live: LiveServer, cases: Sequence[Case]):
        self._live = live
        self._tables = [case.table for case in cases]
        self._making = asyncio.Lock()
        self.joined: set[int] = set()
        self.turns: dict[int, tuple[int, int]] = {}
        self.moved = asyncio.Condition()
        self.database: Database | None = None
        self.dropped = False

    async def make(self) -> None:
        """Makes the database where no other problem has."""
        async with self._making:
            if self.database is None and not self.dropped:
                self.database = await open_database(self._live, *self._tables)

    async def drop(self) -> None:
        """Drops it for all."""
        self.dropped = True
        if self.database is not None:
            await self.database.close()


class SharedDatabase:
    """One problem's view of a shared database; used like a `Database`."""

    def __init__(self, group: _Group, case: Case):
        self._group = group
        self._case = case
        self._closed = False
        group.joined.add(case.index)
        group.turns[case.index] = (0, case.index)

    async def execute(self, sql: str) -> str:
        """Runs a statement when it is this problem's turn."""
        await self._wait()
        group, index = self._group, self._case.index
        try:
            if group.dropped or group.database is None:
                return self._unknown()
            return await group.database.execute(sql)
        finally:
            async with group.moved:
                group.turns[index] = (group.turns[index][0] + 1, index)
                group.moved.notify_all()

    async def state(self) -> str:
        """The hash of the shared table over this problem's columns."""
        await self._wait()
        if self._group.dropped or self._group.database is None:
            return self._unknown()
        return await self._group.database.state(self._case.table)

    async def close(self) -> None:
        """Drops the database for all that share it."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._wait()
            await self._group.drop()
        finally:
            await self.leave()

    async def leave(self) -> None:
        """Takes no more turns."""
        async with self._group.moved:
            self._group.turns.pop(self._case.index, None)
            self._group.moved.notify_all()

    async def _wait(self) -> None:
        """Waits for this problem's turn."""
        turns, index = self._group.turns, self._case.index
        async with self._group.moved:
            await self._group.moved.wait_for(
                lambda: turns[index] == min(turns.values())
            )

    def _unknown(self) -> str:
        return f"1049 (42000): Unknown database '{self._case.table.name}'"
