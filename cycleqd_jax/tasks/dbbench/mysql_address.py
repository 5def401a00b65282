"""Where a MySQL or MariaDB server is, from a URL."""

import dataclasses
import urllib.parse

from cycleqd_jax.errors import BadInputError

VARIABLE = "CYCLEQD_MYSQL_URL"
_FORM = "mysql://user:password@host:port, or ...@localhost?unix_socket=/path"


@dataclasses.dataclass(frozen=True)
class Address:
    """A server and who asks.

    Attributes:
      user: an account that may create databases and users and give rights to them.
      password: its password; not part of `repr`.
      host: name or number.
      port: of TCP.
      unix_socket: path of a socket, instead of host and port; empty if none.
      tls: whether the connection is encrypted; the certificate is not checked.
    """

    user: str
    password: str = dataclasses.field(repr=False)
    host: str
    port: int
    unix_socket: str = ""
    tls: bool = False

    def __str__(self) -> str:
        return self.unix_socket or f"{self.host}:{self.port}"


def parse(url: str | None) -> Address:
    """Reads `mysql://user:password@host:port?unix_socket=PATH&tls=true`.

    User and password are percent-encoded where they hold other characters than letters
    and digits; port 3306 and no password are the defaults.

    Raises:
      BadInputError: it is missing or no such URL; the message does not repeat it,
        because it may hold a password.
    """
    if not url:
        raise BadInputError(
            "task_settings.dbbench.backend is mysql, but neither "
            f"task_settings.dbbench.url nor {VARIABLE} says where the server is; "
            f"expected {_FORM}."
        )
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or 3306
        query = urllib.parse.parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError as err:
        raise _wrong(f"it cannot be read ({type(err).__name__})") from err
    if parts.scheme not in ("mysql", "mariadb"):
        raise _wrong("it does not begin with mysql://")
    if not parts.username:
        raise _wrong("it names no user")
    if parts.path not in ("", "/"):
        raise _wrong("it names a database, but every problem gets one of its own")
    for key in query:
        if key not in ("unix_socket", "tls"):
            raise _wrong(f"it has {key}; known are unix_socket and tls")
    tls = query.get("tls", ["false"])[-1]
    if tls not in ("true", "false"):
        raise _wrong("tls is neither true nor false")
    return Address(
        user=urllib.parse.unquote(parts.username),
        password=urllib.parse.unquote(parts.password or ""),
        host=parts.hostname or "localhost",
        port=port,
        unix_socket=query.get("unix_socket", [""])[-1],
        tls=tls == "true",
    )


def _wrong(reason: str) -> BadInputError:
    return BadInputError(
        f"task_settings.dbbench.url (or {VARIABLE}) is no address of a server: "
        f"{reason}; expected {_FORM}."
    )
