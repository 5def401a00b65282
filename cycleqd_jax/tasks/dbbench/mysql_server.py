"""A server as its administrator sees it: connections, the run's lock, what runs left.

Everything a run makes on a server begins with `cycleqd-TOKEN-`, and as long as the run
lives one connection of it, the guard, holds the server's lock of that name. Whoever
finds databases of a token whose lock is free may drop them: their run has ended, on
whatever machine it was. A restart of the server ends the guard, and is noticed by that.
"""

import re
import secrets
import socket
import ssl
import threading
import time
from typing import Any

from pymysql import err
from pymysql.connections import Connection
from pymysql.constants import CLIENT

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.tasks.dbbench.mysql_address import Address
from cycleqd_jax.tasks.dbbench.mysql_text import error_code, message

PREFIX = "cycleqd-"
_NAME = re.compile(r"(cycleqd-[0-9a-f]{12})-\d+-[a-z]+")
_CONNECT_S = 10.0
_ATTEMPTS = 3
_LONG_S = 2147483  # no server closes our connections for being idle
# The server or the way to it is gone: cannot connect, gone away, lost, closed by us.
LOST = (2002, 2003, 2005, 2006, 2013, 2014, 2055, 0)
# It is there but takes nobody more just now.
_BUSY = (1040, 1053, 1203, 1226)
_REFUSED = (1044, 1045, 1049, 1130, 1227, 1251, 1698, 1862, 2059, 2061)


class Server:
    """Makes connections to one server.

    Attributes:
      address: where it is.
      token: of this run; what it makes begins with `name(...)`.
      mariadb: whether it is MariaDB; known after the first connection.
      host: from where this machine's accounts come, for the accounts it makes.
    """

    def __init__(self, address: Address, patience_s: float):
        """Connects to nothing yet.

        Args:
          address: of the server.
          patience_s: seconds that it may take to answer the administrator.
        """
        self.address = address
        self.token = PREFIX + secrets.token_hex(6)
        self.mariadb = True
        self.host = "%"
        self._patience_s = patience_s
        self._tls = _tls_context() if address.tls else None

    def name(self, number: int, kind: str) -> str:
        """Of something that this run makes; none is the beginning of another."""
        return f"{self.token}-{number}-{kind}"

    def connect(
        self,
        user: str,
        password: str,
        *,
        read_timeout_s: float,
        database: str | None = None,
        init: str | None = None,
        conv: Any = None,
    ) -> Connection:
        """A connection; where the server takes nobody it is asked again, twice.

        Raises:
          MySQLError: the server refuses, or cannot be reached.
        """
        address = self.address
        for attempt in range(_ATTEMPTS):
            try:
                connection = Connection(
                    user=user,
                    password=password.encode(),
                    host=address.host,
                    port=address.port,
                    database=database,
                    charset="utf8mb4",
                    # What the reference's connector asks for.
                    collation="utf8mb4_general_ci",
                    autocommit=None,
                    init_command=init,
                    conv=conv,
                    client_flag=CLIENT.MULTI_STATEMENTS,
                    connect_timeout=_CONNECT_S,
                    read_timeout=read_timeout_s,
                    write_timeout=read_timeout_s,
                    ssl=self._tls,
                    ssl_disabled=self._tls is None,
                    defer_connect=True,
                )
                connection.connect(self._socket())
                return connection
            except RuntimeError as error:  # MySQL's passwords need a further library
                raise BadInputError(
                    f"The MySQL server at {address} asks for a password in a way that "
                    f"needs more ({error}); install it with: pip install "
                    "'cycleqd-jax[dbbench]'"
                ) from error
            except err.MySQLError as error:
                if error_code(error) not in (*LOST, *_BUSY) or attempt == _ATTEMPTS - 1:
                    raise
            time.sleep(0.1 * 3**attempt)  # a server that starts, or is full just now
        raise AssertionError("unreachable")

    def _socket(self) -> socket.socket | None:
        """The connected socket of a path, which PyMySQL would leave open on errors."""
        if not self.address.unix_socket:
            return None
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(_CONNECT_S)
        try:
            connected.connect(self.address.unix_socket)
        except OSError as error:
            connected.close()
            raise err.OperationalError(2002, f"Can't connect ({error})") from error
        return connected

    def connect_admin(self) -> Connection:
        """A connection as the administrator, whose statements are committed.

        Raises:
          MySQLError: as `connect`.
        """
        address = self.address
        return self.connect(
            address.user,
            address.password,
            read_timeout_s=self._patience_s,
            init=(
                f"SET SESSION autocommit=1, wait_timeout={_LONG_S}, sql_mode='',"
                " lock_wait_timeout=10"
            ),
        )

    def failure(self, error: err.MySQLError) -> SandboxError | BadInputError:
        """What a failure of the server is to a caller."""
        code, text = error_code(error), message(error)
        if code in _REFUSED:
            return BadInputError(
                f"The MySQL server at {self.address} refuses user "
                f"{self.address.user!r} ({code}: {text}); give task_settings.dbbench."
                "url an account that may create databases and users."
            )
        return SandboxError(f"The MySQL server at {self.address} failed: {code} {text}")


class Guard:
    """The connection that stands for this run; may be used from any thread."""

    def __init__(self, server: Server):
        """Connects, takes the run's lock and drops what dead runs left.

        Raises:
          MySQLError: as `Server.connect`.
        """
        self._server = server
        self._lock = threading.Lock()
        self._connection = server.connect_admin()
        version, host = self.query("SELECT VERSION(), SUBSTRING_INDEX(USER(),'@',-1)")[
            0
        ]
        server.mariadb, server.host = "mariadb" in version.lower(), host
        self.query(f"SELECT GET_LOCK('{server.token}', 0)")
        self._sweep()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of one statement.

        Raises:
          MySQLError: the server refuses it, or is gone.
        """
        with self._lock:
            return run(self._connection, sql)

    def check(self) -> None:
        """Whether the server lives, and is the one it was.

        Raises:
          MySQLError: it does not, or the connection was lost.
        """
        with self._lock:
            self._connection.ping(reconnect=False)

    def close(self) -> None:
        """Ends the connection, and with it the lock."""
        close_quietly(self._connection)

    def drop_all(self, token: str) -> None:
        """Drops every database and user of a run.

        Raises:
          MySQLError: the server is gone.
        """
        for name in self._databases():
            if name.startswith(f"{token}-"):
                self.query(f"DROP DATABASE IF EXISTS `{name}`")
        for user, host in self._users():
            if user.startswith(f"{token}-"):
                self.query(f"DROP USER IF EXISTS '{user}'@'{host}'")

    def _sweep(self) -> None:
        """Drops what runs left that did not end by themselves."""
        names = [*self._databases(), *(user for user, _ in self._users())]
        tokens = {found[1] for n in names if (found := _NAME.fullmatch(n))}
        for token in sorted(tokens - {self._server.token}):
            if self.query(f"SELECT IS_FREE_LOCK('{token}')")[0][0] == 1:
                self.drop_all(token)

    def _databases(self) -> list[str]:
        rows = self.query(
            "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA "
            f"WHERE SCHEMA_NAME LIKE '{PREFIX}%'"
        )
        return [name for (name,) in rows if _NAME.fullmatch(name)]

    def _users(self) -> list[tuple[str, str]]:
        try:
            rows = self.query(
                f"SELECT User, Host FROM mysql.user WHERE User LIKE '{PREFIX}%'"
            )
        except err.MySQLError as error:
            if error_code(error) in LOST:
                raise
            return []  # the account may make users without seeing their list
        return [(user, host) for user, host in rows if _NAME.fullmatch(user)]


def run(connection: Connection, sql: str) -> list[tuple[Any, ...]]:
    """The rows of the last of some statements.

    Raises:
      MySQLError: the server refuses one of them, or is gone.
    """
    with connection.cursor() as cursor:
        cursor.execute(sql)
        rows = list(cursor.fetchall())
        while cursor.nextset():
            rows = list(cursor.fetchall())
        return rows


def close_quietly(connection: Connection | None) -> None:
    """Closes a connection that may be closed or broken."""
    if connection is not None and connection.open:
        try:
            connection.close()
        except err.Error:
            pass


def _tls_context() -> ssl.SSLContext:
    """Encryption without a check of the certificate; made once, which is slow."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
