"""Connections to a server, and the meaning of its errors."""

import socket
import ssl
import time
from typing import Any

from pymysql import connections, err
from pymysql.constants import CLIENT, CR

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.tasks.dbbench.address import Address

_CONNECT_S = 10.0
_ATTEMPTS = 3
_LONGEST_PACKET = 4 * 2**20  # bytes, about one row; a feedback shows 800 characters
# The server or the way to it is gone: cannot connect, gone away, lost, closed by us.
LOST = (2002, 2003, 2005, 2006, 2013, 2014, 2055, 0)
# The server is there, but accepts no connection just now.
_BUSY = (1040, 1053, 1203, 1226)
_REFUSED = (1044, 1045, 1049, 1130, 1227, 1251, 1698, 1862, 2059, 2061)


class ServerLostError(SandboxError):
    """The server died, hangs or was restarted; running episodes have no verdict."""


class ServerExhaustedError(ServerLostError):
    """The server works, but its disk or memory is full of other episodes' data."""


class Connection(connections.Connection):
    """PyMySQL's connection, which refuses packets that would fill our memory."""

    def _read_bytes(self, num_bytes: int) -> bytes:
        if num_bytes > _LONGEST_PACKET:
            self._force_close()
            raise err.OperationalError(
                CR.CR_NET_PACKET_TOO_LARGE,
                "Got packet bigger than 'max_allowed_packet' bytes",
            )
        return super()._read_bytes(num_bytes)


def connect(
    address: Address,
    user: str,
    password: str,
    *,
    read_timeout_s: float,
    database: str | None = None,
    init: str | None = None,
    conv: Any = None,
) -> Connection:
    """Connects; tries three times if the server is busy or does not answer.

    Args:
      address: of the server.
      user: whose account it is; the administrator's or one that was made for a problem.
      password: of the account.
      read_timeout_s: seconds that the server may keep silent.
      database: that is used.
      init: a statement that is run first.
      conv: type of a field -> what makes a Python value of its text.

    Raises:
      MySQLError: the server refuses, or cannot be reached.
    """
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
                ssl=_TLS if address.tls else None,
                ssl_disabled=not address.tls,
                defer_connect=True,
            )
            connection.connect(_unix_socket(address.unix_socket))
            return connection
        except RuntimeError as error:  # MySQL's passwords need the library cryptography
            raise BadInputError(
                f"The {address} asks for a password in a way that needs a further "
                f"library ({error}); install it with: pip install "
                "'cycleqd-jax[dbbench]'"
            ) from error
        except err.MySQLError as error:
            if error_code(error) not in (*LOST, *_BUSY) or attempt == _ATTEMPTS - 1:
                raise
        time.sleep(0.1 * 3**attempt)
    raise AssertionError("unreachable")


def run(connection: Connection, sql: str) -> list[tuple[Any, ...]]:
    """Runs statements; returns the rows of the last one.

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
    """Closes a connection, which may be closed or broken already."""
    if connection is not None and connection.open:
        try:
            connection.close()
        except err.Error:
            pass


def failure(address: Address, error: err.MySQLError) -> SandboxError | BadInputError:
    """Our exception for an error that the statement did not cause."""
    code, text = error_code(error), message(error)
    if code in _REFUSED:
        return BadInputError(
            f"The {address} refuses user {address.user!r} ({code}: {text}); give "
            "task_settings.dbbench.url an account that may create databases and users."
        )
    return ServerLostError(f"The {address} failed: {code} {text}")


def error_code(error: err.MySQLError) -> int:
    """The server's error number; 0 if the connection is unusable."""
    code = error.args[0] if error.args else 0
    return code if isinstance(code, int) else 0


def error_text(error: err.MySQLError) -> str:
    """An error as a model is shown it: `1064 (42000): You have an error ...`."""
    return f"{error_code(error)} ({error.sqlstate or 'HY000'}): {message(error)}"


def message(error: err.MySQLError) -> str:
    """The text of an error."""
    return str(error.args[-1]) if error.args else ""


def _unix_socket(path: str) -> socket.socket | None:
    """A connected socket; on errors PyMySQL would leave its own open."""
    if not path:
        return None
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(_CONNECT_S)
    try:
        connected.connect(path)
    except OSError as error:
        connected.close()
        raise err.OperationalError(
            CR.CR_CONNECTION_ERROR, f"Can't connect ({error})"
        ) from error
    return connected


def _unchecked_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_TLS = _unchecked_tls()  # made once: making it takes milliseconds
