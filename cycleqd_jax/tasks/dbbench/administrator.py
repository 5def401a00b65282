"""The administrator's work on a server, and the check that the server is still alive.

Everything a run makes on a server begins with `cycleqd-TOKEN-`. As long as the run
lives, one connection of it, the guard, holds the server's lock (`GET_LOCK`) of that
name; a server frees the locks of a connection that ends. So databases whose token is
not locked were left by a run that was killed, and the next run drops them. A restart of
the server ends the guard, and is noticed by that.
"""

import re
import secrets
import threading
from typing import Any

from pymysql import err

from cycleqd_jax.tasks.dbbench.address import Address
from cycleqd_jax.tasks.dbbench.connection import (
    LOST,
    Connection,
    close_quietly,
    connect,
    error_code,
    failure,
    run,
)

_PREFIX = "cycleqd-"
_NAME = re.compile(r"(cycleqd-[0-9a-f]{12})-\d+-[a-z]+")
_FOREVER_S = 2147483  # until the server closes an idle connection


class Administrator:
    """The administrator's connections to a server, until it stops or restarts.

    All methods block and may be called from any thread.

    Attributes:
      address: of the server.
      mariadb: whether it is MariaDB.
      host: what the server calls the host that we connect from; part of accounts.
    """

    def __init__(self, address: Address, patience_s: float):
        """Connects, takes the lock and drops what killed runs left.

        Args:
          address: of the server.
          patience_s: seconds that the server may take for an answer.

        Raises:
          ServerLostError: there is no connection to be had.
          BadInputError: the server refuses our account.
        """
        self.address = address
        self._patience_s = patience_s
        self._token = _PREFIX + secrets.token_hex(6)
        self._lock = threading.Lock()  # of the guard
        self._threads = threading.local()  # .connection: of this thread
        self._opened: list[Connection] = []
        try:
            self._guard = self._connect()
            try:
                facts = "SELECT VERSION(), SUBSTRING_INDEX(USER(), '@', -1)"
                version, self.host = self._ask(facts)[0]
                self.mariadb = "mariadb" in version.lower()
                self._ask(f"SELECT GET_LOCK('{self._token}', 0)")
                self._sweep()
            except BaseException:
                close_quietly(self._guard)
                raise
        except err.MySQLError as error:
            raise failure(address, error) from error

    def name(self, number: int, kind: str) -> str:
        """The name of a database or account of this run."""
        return f"{self._token}-{number}-{kind}"

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs statements on this thread's connection; returns the last one's rows.

        Raises:
          MySQLError: the server refuses one of them, or is gone.
        """
        connection = getattr(self._threads, "connection", None)
        if connection is None or not connection.open:
            connection = self._threads.connection = self._connect()
            self._opened.append(connection)
        return run(connection, sql)

    def check(self) -> None:
        """Checks that the server is alive and was not restarted.

        Raises:
          ServerLostError: it does not or is not.
        """
        try:
            with self._lock:
                self._guard.ping(reconnect=False)
        except err.MySQLError as error:
            raise failure(self.address, error) from error

    def kill(self, connection: int) -> None:
        """Kills a connection by the server's number for it, if it is still open.

        Raises:
          ServerLostError: the server is gone.
        """
        try:
            self._ask(f"KILL {connection}")
        except err.MySQLError as error:
            if error_code(error) in LOST:
                raise failure(self.address, error) from error

    def database_bytes(self, database: str) -> int:
        """The bytes of a database's InnoDB files; 0 if the server does not tell."""
        # In the names of files, hyphens are written in hexadecimal.
        names = (database, database.replace("-", "@002d"))
        where = " OR ".join(f"NAME LIKE '{name}/%'" for name in names)
        view = "INNODB_SYS_TABLESPACES" if self.mariadb else "INNODB_TABLESPACES"
        sql = f"SELECT SUM(FILE_SIZE) FROM information_schema.{view} WHERE {where}"
        try:
            return int(self._ask(sql)[0][0] or 0)
        except err.MySQLError:
            return 0  # whoever waits for the statement learns what is wrong

    def check_room(self, database: str) -> None:
        """Asks whether the server has room for some megabytes, by writing them.

        Raises:
          ServerLostError: it has none.
        """
        probe = f"`{database}`.`cycleqd-probe`"
        try:
            self.run(
                f"CREATE DATABASE IF NOT EXISTS `{database}`; "
                f"DROP TABLE IF EXISTS {probe}; "
                f"CREATE TABLE {probe} (x LONGTEXT) ENGINE=InnoDB; "
                f"INSERT INTO {probe} VALUES (REPEAT('x', 4194304)); DROP TABLE {probe}"
            )
        except err.MySQLError as error:
            raise failure(self.address, error) from error

    def drop_all(self) -> None:
        """Drops what this run made, where the server lives; else the next run does."""
        try:
            self._drop_all(self._token)
        except err.MySQLError:
            pass

    def leave(self) -> None:
        """Gives the lock back; other threads may still be using their connections."""
        with self._lock:
            close_quietly(self._guard)

    def close(self) -> None:
        """Closes all connections; no thread may be using one."""
        for connection in (*self._opened, self._guard):
            close_quietly(connection)

    def _connect(self) -> Connection:
        """A connection whose statements are committed."""
        return connect(
            self.address,
            self.address.user,
            self.address.password,
            read_timeout_s=self._patience_s,
            init=(
                f"SET SESSION autocommit=1, wait_timeout={_FOREVER_S}, sql_mode='',"
                " lock_wait_timeout=10"
            ),
        )

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a statement on the guard."""
        with self._lock:
            return run(self._guard, sql)

    def _sweep(self) -> None:
        """Drops what killed runs left."""
        names = [*self._databases(), *(user for user, _ in self._users())]
        tokens = {found[1] for name in names if (found := _NAME.fullmatch(name))}
        for token in sorted(tokens - {self._token}):
            if self._ask(f"SELECT IS_FREE_LOCK('{token}')")[0][0] == 1:
                self._drop_all(token)

    def _drop_all(self, token: str) -> None:
        for name in self._databases():
            if name.startswith(f"{token}-"):
                self._ask(f"DROP DATABASE IF EXISTS `{name}`")
        for user, host in self._users():
            if user.startswith(f"{token}-"):
                self._ask(f"DROP USER IF EXISTS '{user}'@'{host}'")

    def _databases(self) -> list[str]:
        rows = self._ask(
            "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA "
            f"WHERE SCHEMA_NAME LIKE '{_PREFIX}%'"
        )
        return [name for (name,) in rows if _NAME.fullmatch(name)]

    def _users(self) -> list[tuple[str, str]]:
        try:
            rows = self._ask(
                f"SELECT User, Host FROM mysql.user WHERE User LIKE '{_PREFIX}%'"
            )
        except err.MySQLError as error:
            if error_code(error) in LOST:
                raise
            return []  # the account may make accounts without seeing their list
        return [(user, host) for user, host in rows if _NAME.fullmatch(user)]
