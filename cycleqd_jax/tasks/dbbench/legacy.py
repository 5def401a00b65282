"""Shared databases, as in the reference; for comparison with its numbers only.

The reference names a problem's database after its table, and several problems have
tables of one name. So they share a database: the first makes the table, the others'
rows are added or refused, each sees what the others do, and the first to end drops it
for all. There all problems are played in rounds, one reply of each at a time, in the
order of their ids; here the members of a group that are being played take turns so.

A member that comes a second time begins the group anew, with those that follow it:
several individuals can be scored, but only one after another as in the reference.
"""

import asyncio
from collections.abc import Sequence

from cycleqd_jax.tasks.dbbench.backend import Database
from cycleqd_jax.tasks.dbbench.data import Case
from cycleqd_jax.tasks.dbbench.mysql import MysqlBackend
from cycleqd_jax.tasks.dbbench.mysql_database import MysqlDatabase


class SharedDatabases:
    """The groups of problems that have tables of one name."""

    def __init__(self, backend: MysqlBackend, cases: Sequence[Case]):
        """Makes no database yet.

        Args:
          backend: where they are made.
          cases: all problems that are played.
        """
        self._backend = backend
        self._cases: dict[str, list[Case]] = {}
        for case in sorted(cases, key=lambda case: case.index):
            self._cases.setdefault(case.table.name, []).append(case)
        self._groups: dict[str, _Group] = {}

    async def open(self, case: Case) -> Database:
        """The database that the problem shares.

        Raises:
          SandboxError: it cannot be made.
        """
        # Before the first await, so that all that are started together are here
        # before any of them goes on.
        name = case.table.name
        group = self._groups.get(name)
        if group is None or case.index in group.joined:
            members = self._cases.get(name, [])
            first = members if case in members else [case, *members]
            group = self._groups[name] = _Group(self._backend, first)
        member = _Member(group, case)
        try:
            await group.make()
        except BaseException:
            await member.leave()
            raise
        return member


class _Group:
    """One shared database and those that are at it.

    Attributes:
      joined: the indices of all problems that have come.
      turns: index -> what the member does next, as (round, index); the least is next.
      moved: told of each change of `turns`.
      database: once it is made, until it is dropped.
      dropped: whether it is.
    """

    def __init__(self, backend: MysqlBackend, cases: Sequence[Case]):
        self._backend = backend
        self._tables = [case.table for case in cases]
        self._making = asyncio.Lock()
        self.joined: set[int] = set()
        self.turns: dict[int, tuple[int, int]] = {}
        self.moved = asyncio.Condition()
        self.database: MysqlDatabase | None = None
        self.dropped = False

    async def make(self) -> None:
        """Makes the database where nobody has."""
        async with self._making:
            if self.database is None and not self.dropped:
                self.database = await self._backend.open(*self._tables)

    async def drop(self) -> None:
        """Drops it for all."""
        self.dropped = True
        if self.database is not None:
            await self.database.close()


class _Member:
    """One problem's view of a shared database; see `backend.Database`."""

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
        return await self._group.database.state_of(self._case.table)

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
        turns, index = self._group.turns, self._case.index
        async with self._group.moved:
            await self._group.moved.wait_for(
                lambda: turns[index] == min(turns.values())
            )

    def _unknown(self) -> str:
        return f"1049 (42000): Unknown database '{self._case.table.name}'"
