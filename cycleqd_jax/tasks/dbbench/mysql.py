"""Databases on a MySQL or MariaDB server, one per problem, created and dropped.

Each statement of a model runs on a connection of its own, as in the reference: its
session variables, temporary tables, locks and open transactions end with it. What we do
ourselves goes over a few connections that stay. Everything blocks, so it happens in as
many threads as `connections`; the server serves any number of waiting episodes.

A server's error is a model's as long as the server is well; `Guard` tells. Where it is
gone, was restarted or its disk is full, that is a `SandboxError` and no verdict.
"""

import asyncio
import concurrent.futures
import functools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pymysql import err
from pymysql.connections import Connection

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.tasks.dbbench import mysql_session
from cycleqd_jax.tasks.dbbench.backend import Feedback, Table
from cycleqd_jax.tasks.dbbench.mysql_address import parse
from cycleqd_jax.tasks.dbbench.mysql_database import MysqlDatabase
from cycleqd_jax.tasks.dbbench.mysql_server import (
    LOST,
    Guard,
    Server,
    close_quietly,
    run,
)
from cycleqd_jax.tasks.dbbench.mysql_slots import Login, Slot, Slots, check_rights
from cycleqd_jax.tasks.dbbench.mysql_text import error_code

_T = TypeVar("_T")
_GRACE_S = 5.0  # for the server to end a statement by itself
_LARGEST = 256 * 2**20  # bytes of a database that a statement may fill
_PATIENCE_S = 10.0  # at least, for the server to answer us


class MysqlBackend:
    """A server; see `backend.Backend`.

    Attributes:
      server: where it is.
      statement_s: seconds one statement of a model may take.
    """

    name = "mysql"

    def __init__(
        self, url: str | None, *, connections: int = 4, statement_s: float = 30.0
    ):
        """Connects to nothing yet.

        Args:
          url: `mysql://user:password@host:port` of an account that may create
            databases and users.
          connections: statements at a time; the server sees at most twice as many
            connections and one more.
          statement_s: seconds one statement of a model may take.

        Raises:
          BadInputError: the URL is none.
        """
        self.server = Server(parse(url), max(_PATIENCE_S, statement_s))
        self.statement_s = statement_s
        self._lock = threading.Lock()
        self._threads = threading.local()
        self._connections = connections
        self._pools: list[concurrent.futures.ThreadPoolExecutor] = []
        self._admins: list[Connection] = []
        self._guard: Guard | None = None
        self._slots = Slots(self.server)
        self._epoch = 0  # of the server's life; databases do not outlive theirs

    async def open(self, table: Table, *others: Table) -> MysqlDatabase:
        """A new database with the table in it.

        Args:
          table: of the problem.
          others: of the same name; their rows are added where they fit.

        Raises:
          SandboxError: the server is gone or cannot make it.
          BadInputError: it refuses our account.
        """
        return await self.call(functools.partial(self._open, (table, *others)))

    async def aclose(self) -> None:
        """Drops all that was made and closes all connections."""
        pools, self._pools = self._pools, []
        await asyncio.to_thread(self._close, pools)

    async def call(self, function: Callable[[], _T]) -> _T:
        """Runs a blocking function in a thread of ours."""
        return await self.submit(function)

    def submit(
        self, function: Callable[[], _T], watch: bool = False
    ) -> asyncio.Future[_T]:
        """The future of a blocking function; `watch` for the thread kept free."""
        if not self._pools:
            self._pools = [
                concurrent.futures.ThreadPoolExecutor(size, f"dbbench-{role}")
                for size, role in ((self._connections, "run"), (1, "watch"))
            ]
        pool = self._pools[watch]
        return asyncio.get_running_loop().run_in_executor(pool, function)

    def check(self, epoch: int) -> None:
        """The server is well and is the one it was when a database was opened.

        Raises:
          SandboxError: it is not.
        """
        guard = self._guard
        if guard is not None and epoch == self._epoch:
            try:
                guard.check()
                return
            except err.MySQLError as error:
                self._lose(guard)
                raise self.server.failure(error) from error
        raise SandboxError(
            f"The connection to the MySQL server at {self.server.address} was lost or "
            "the server was restarted while a problem's database was open."
        )

    def run(
        self, slot: Slot, login: Login, sql: str, connected: Callable[[int], None]
    ) -> Feedback:
        """`mysql_session.run_statement` on this server.

        Raises:
          SandboxError: there is no connection to be had.
          BadInputError: the server refuses it.
          AccountChangedError, ConnectionLostError: as there.
        """
        try:
            return mysql_session.run_statement(
                self.server, slot, login, sql, self.statement_s, connected
            )
        except err.MySQLError as error:
            raise self.server.failure(error) from error

    def limit(self, slot: Slot, thread: int, started: float) -> bool:
        """Stops a statement that takes too long or fills the disk.

        Servers stop most by themselves; a model can tell its session not to.

        Returns:
          Whether it was stopped.
        """
        guard = self._guard
        if guard is None:
            return False
        # As files are named, hyphens are written in hexadecimal.
        names = (slot.database, slot.database.replace("-", "@002d"))
        where = " OR ".join(f"NAME LIKE '{name}/%'" for name in names)
        old = self.server.mariadb
        table = "INNODB_SYS_TABLESPACES" if old else "INNODB_TABLESPACES"
        try:
            late = time.monotonic() - started > self.statement_s + _GRACE_S
            if not late:
                rows = guard.query(
                    f"SELECT SUM(FILE_SIZE) FROM information_schema.{table} "
                    f"WHERE {where}"
                )
                late = (rows[0][0] or 0) > _LARGEST
            if late:
                guard.query(f"KILL {thread}")
            return late
        except err.MySQLError:
            return False  # whoever waits for the statement learns what is wrong

    def kill(self, thread: int) -> None:
        """Ends a statement whose connection we have left, if it still runs.

        Raises:
          SandboxError: the server is gone.
        """
        guard = self._guard
        try:
            if guard is not None:
                guard.query(f"KILL {thread}")
        except err.MySQLError as error:
            if error_code(error) in LOST:
                raise self.server.failure(error) from error

    def drop(self, slot: Slot, epoch: int, spoilt: bool) -> None:
        """Drops a database; its slot is free then, unless something may still run."""
        if epoch != self._epoch:
            return
        try:
            run(self._admin(), f"DROP DATABASE IF EXISTS `{slot.database}`")
        except err.MySQLError:
            self._forget_admin()  # dropped with everything else at the end
            return
        if not spoilt:
            self._slots.give_back(slot)

    def renew_accounts(self, slot: Slot) -> None:
        """Makes a slot's accounts as they were.

        Raises:
          SandboxError: the server refuses.
        """
        self._as_admin(lambda admin: self._slots.make_accounts(admin, slot))

    def check_disk(self, slot: Slot) -> None:
        """The server has room, whatever a model did to be told otherwise.

        Raises:
          SandboxError: it has none.
        """
        probe = f"`{slot.database}`.`cycleqd-probe`"
        sql = (
            f"CREATE DATABASE IF NOT EXISTS `{slot.database}`; "
            f"DROP TABLE IF EXISTS {probe}; "
            f"CREATE TABLE {probe} (x LONGTEXT) ENGINE=InnoDB; "
            f"INSERT INTO {probe} VALUES (REPEAT('x', 4194304)); DROP TABLE {probe}"
        )
        self._as_admin(lambda admin: run(admin, sql))

    def _as_admin(self, function: Callable[[Connection], Any]) -> None:
        try:
            function(self._admin())
        except err.MySQLError as error:
            self._forget_admin()
            raise self.server.failure(error) from error

    def _open(self, tables: tuple[Table, ...]) -> MysqlDatabase:
        for attempt in range(2):
            try:
                epoch = self._begin()
                slot = self._slots.take(self._admin())
                mysql_session.make_tables(self.server, self._admin(), slot, tables)
                return MysqlDatabase(self, tables[0], slot, epoch)
            except err.MySQLError as error:
                self._forget_admin()
                if error_code(error) not in LOST or attempt == 1:
                    raise self.server.failure(error) from error
                # It may just have closed a connection; the guard knows.
                guard = self._guard
                try:
                    if guard is not None:
                        guard.check()
                except err.MySQLError:
                    self._lose(guard)
        raise AssertionError("unreachable")

    def _begin(self) -> int:
        """Connects the guard where there is none; returns the epoch."""
        with self._lock:
            if self._guard is None:
                guard = Guard(self.server)
                try:
                    slots = Slots(self.server)
                    admin = self._admin()
                    guard.drop_all(self.server.token)  # of an earlier epoch
                    slot = slots.take(admin)
                    check_rights(self.server, guard, slot)
                except BaseException:
                    guard.close()
                    raise
                slots.give_back(slot)
                self._slots, self._guard = slots, guard
            return self._epoch

    def _lose(self, guard: Guard | None) -> None:
        with self._lock:
            if guard is not None and self._guard is guard:
                guard.close()
                self._guard = None
                self._epoch += 1

    def _admin(self) -> Connection:
        """This thread's connection as the administrator."""
        connection = getattr(self._threads, "admin", None)
        if connection is None or not connection.open:
            connection = self._threads.admin = self.server.connect_admin()
            self._admins.append(connection)
        return connection

    def _forget_admin(self) -> None:
        close_quietly(getattr(self._threads, "admin", None))
        self._threads.admin = None

    def _close(self, pools: list[concurrent.futures.ThreadPoolExecutor]) -> None:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)
        guard, self._guard = self._guard, None
        self._epoch += 1
        for connection in self._admins:
            close_quietly(connection)
        self._admins.clear()
        if guard is not None:
            try:
                guard.drop_all(self.server.token)
            except err.MySQLError:
                pass  # the next run drops it
            guard.close()
