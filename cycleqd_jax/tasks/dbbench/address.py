"""The address of a MySQL or MariaDB server, with the account to connect as."""

import dataclasses
import urllib.parse

from cycleqd_jax.errors import BadInputError

VARIABLE = "CYCLEQD_MYSQL_URL"
_FORM = "mysql://user:password@host:port, or ...@localhost?unix_socket=/path"


@dataclasses.dataclass(frozen=True)
class Address:
    """A server and the account of its administrator.

    Attributes:
      user: an account that may create databases and accounts and grant rights.
      password: its password; not part of `repr`.
      host: name or number.
      port: of TCP.
      unix_socket: path of a socket, used instead of host and port; empty if none.
      tls: whether the connection is encrypted; the certificate is not checked.
      name: what messages call the server; empty for "MySQL server at ...".
    """

    user: str
    password: str = dataclasses.field(repr=False)
    host: str = "localhost"
    port: int = 3306
    unix_socket: str = ""
    tls: bool = False
    name: str = ""

    def __str__(self) -> str:
        where = self.unix_socket or f"{self.host}:{self.port}"
        return self.name or f"MySQL server at {where}"


def parse_url(url: str | None) -> Address:
    """Reads `mysql://user:password@host:port?unix_socket=PATH&tls=true`.

    User and password are percent-encoded. The port defaults to 3306, the password to
    none.

    Raises:
      BadInputError: the URL is missing or wrong; the message does not repeat it, as it
        may hold a password.
    """
    if not url:
        raise BadInputError(
            "task_settings.dbbench.backend is server, but neither "
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
        raise _wrong("it names a database, but every problem gets its own")
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
        f"task_settings.dbbench.url (or {VARIABLE}) is not the address of a server: "
        f"{reason}; expected {_FORM}."
    )
