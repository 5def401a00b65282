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
from cycleqd_jax.tasks.dbbench.database import Database
from cycleqd_jax.tasks.dbbench.live_server import LiveServer


class SharedDatabases:
    """The groups of problems whose tables have the same name."""

    def __init__(self, live: LiveServer, cases: Sequence[Case]):
        """Makes no database yet.

        Args:
          live: the server where they will be made.
          cases: all problems that are played.
        """
        self._live = live
        self._cases: dict[str, list[Case]] = {}
        for case in sorted(cases, key=lambda case: case.index):
            self._cases.setdefault(case.table.name, []).append(case)
        self._groups: dict[str, _Group] = {}

    def open(self, case: Case) -> "SharedDatabase":
        """The problem's view of the database that it shares."""
        name = case.table.name
        group = self._groups.get(name)
        if group is None or case.index in group.joined:
            members = self._cases.get(name, [])
            first = members if case in members else [case, *members]
            tables = [member.table for member in first]
            group = self._groups[name] = _Group(Database(self._live, *tables))
        return SharedDatabase(group, case)


class _Group:
    """One shared database and the problems that use it.

    Attributes:
      database: the first that ends drops it.
      dropped: whether it was dropped.
      joined: the indices of all problems that have come.
      turns: index -> the problem's next turn, as (round, index); the least is next.
      moved: is notified of each change of `turns`.
    """

    def __init__(self, database: Database):
        self.database = database
        self.dropped = False
        self.joined: set[int] = set()
        self.turns: dict[int, tuple[int, int]] = {}
        self.moved = asyncio.Condition()


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
            if group.dropped:
                return self._unknown()
            return await group.database.execute(sql)
        finally:
            async with group.moved:
                group.turns[index] = (group.turns[index][0] + 1, index)
                group.moved.notify_all()

    async def state(self) -> str:
        """The hash of the shared table over this problem's columns."""
        await self._wait()
        if self._group.dropped:
            return self._unknown()
        return await self._group.database.state(self._case.table)

    async def close(self) -> None:
        """Drops the database for all that share it."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._wait()
            self._group.dropped = True
            await self._group.database.close()
        finally:
            async with self._group.moved:
                self._group.turns.pop(self._case.index)
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
