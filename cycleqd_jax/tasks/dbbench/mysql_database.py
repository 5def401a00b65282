"""One problem's database on a server, from its making to its drop."""

import asyncio
import functools
import threading
import time
import typing

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.tasks.dbbench import mysql_session
from cycleqd_jax.tasks.dbbench.backend import Feedback, Table
from cycleqd_jax.tasks.dbbench.mysql_names import with_database
from cycleqd_jax.tasks.dbbench.mysql_slots import Login, Slot

if typing.TYPE_CHECKING:
    from cycleqd_jax.tasks.dbbench.mysql import MysqlBackend

_WATCH_S = 1.0  # statements that take longer are looked after


class MysqlDatabase:
    """See `backend.Database`."""

    def __init__(self, backend: "MysqlBackend", table: Table, slot: Slot, epoch: int):
        """Takes over a database that was made.

        Args:
          backend: of the server.
          table: what the database holds.
          slot: its name and accounts.
          epoch: of the server's life in which it was made.
        """
        self._backend = backend
        self._table = table
        self._slot = slot
        self._epoch = epoch
        self._lock = threading.Lock()  # one statement at a time, the drop after them
        self._running: tuple[int, float] | None = None  # connection, when it began
        self._spoilt = False
        self._closed = False

    async def execute(self, sql: str) -> str:
        """Runs a model's statement; see `backend.Database`."""
        sql = with_database(sql, self._table, self._slot.database)
        return await self._statement(self._slot.model, sql)

    async def state(self) -> str:
        """The hash of the table's content; see `backend.Database`."""
        return await self.state_of(self._table)

    async def state_of(self, table: Table) -> str:
        """The hash over another table's columns; its name is the same."""
        query = mysql_session.state_query(table)
        return await self._statement(self._slot.judge, query)

    async def close(self) -> None:
        """Drops the database."""
        if not self._closed:
            self._closed = True
            await self._backend.submit(self._drop)

    async def _statement(self, login: Login, sql: str) -> str:
        task = self._backend.submit(functools.partial(self._run, login, sql))
        done, _ = await asyncio.wait({task}, timeout=_WATCH_S)
        while not done:
            await self._backend.submit(self._watch, watch=True)
            done, _ = await asyncio.wait({task}, timeout=_WATCH_S)
        # A model is to see the name that the reference's database has.
        return task.result().text.replace(self._slot.database, self._table.name)

    def _run(self, login: Login, sql: str) -> Feedback:
        """Runs a statement in this thread."""
        backend = self._backend
        with self._lock:
            for _ in range(2):
                backend.check(self._epoch)
                try:
                    feedback = backend.run(self._slot, login, sql, self._connected)
                except mysql_session.AccountChangedError:
                    # A model may set its own password; the account is made anew.
                    backend.renew_accounts(self._slot)
                    continue
                except mysql_session.ConnectionLostError as lost:
                    self._spoilt = True  # something of it may still run
                    backend.check(
                        self._epoch
                    )  # the server is well: the statement's doing
                    backend.kill(lost.thread)
                    return Feedback(lost.text, True)
                finally:
                    self._running = None
                backend.check(self._epoch)
                if mysql_session.says_disk_full(feedback):
                    backend.check_disk(self._slot)
                return feedback
        raise SandboxError(
            f"The MySQL server at {backend.server.address} does not let in the account "
            "that was just made for a problem."
        )

    def _connected(self, thread: int) -> None:
        self._running = (thread, time.monotonic())

    def _watch(self) -> None:
        running = self._running
        if running is not None and self._backend.limit(self._slot, *running):
            self._spoilt = True

    def _drop(self) -> None:
        with self._lock:
            self._backend.drop(self._slot, self._epoch, self._spoilt)
