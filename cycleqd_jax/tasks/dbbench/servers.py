"""Servers for the databases: one given by its URL, or a private one of the run."""

import contextlib
import os
import re
from typing import Protocol

from pymysql import err

from cycleqd_jax.tasks.dbbench.address import VARIABLE, Address, parse_url
from cycleqd_jax.tasks.dbbench.connection import connect, failure, run
from cycleqd_jax.tasks.dbbench.private_server import PrivateServer
from cycleqd_jax.tasks.dbbench.settings import Options

_PATIENCE_S = 10.0
_VERSION = re.compile(r"(?:5\.5\.5-)?(\d+\.\d+)")


class Server(Protocol):
    """A MySQL or MariaDB server; its methods block, and may be called in any thread.

    Attributes:
      ours: whether we start it, and nobody else uses it.
    """

    ours: bool

    def version(self) -> str:
        """The kind and version of the server, like "mariadb 10.11" or "mysql 8.0".

        Raises:
          BadInputError, SandboxError: it is not to be had.
        """
        ...

    def address(self) -> Address:
        """The address; starts a private server that does not run.

        Raises:
          BadInputError, SandboxError: it is not to be had.
        """
        ...

    def restart(self, *, failed: bool) -> None:
        """Ends a private server, so that the next `address` starts a new one.

        Args:
          failed: whether because it died or hangs; this is done a few times only.
        """
        ...

    def free_bytes(self) -> int | None:
        """Free bytes on its disk; None if unknown."""
        ...

    def close(self) -> None:
        """Ends a private server."""
        ...


class ExternalServer:
    """A server that others started, given by its URL; see `Server`.

    Args:
      url: `mysql://user:password@host:port`.

    Raises:
      BadInputError: the URL is missing or wrong.
    """

    ours = False

    def __init__(self, url: str | None):
        self._address = parse_url(url)

    def version(self) -> str:
        """See `Server`."""
        address = self._address
        try:
            connection = connect(
                address, address.user, address.password, read_timeout_s=_PATIENCE_S
            )
            with contextlib.closing(connection):
                text = run(connection, "SELECT VERSION()")[0][0]
        except err.MySQLError as error:
            raise failure(address, error) from error
        kind = "mariadb" if "mariadb" in text.lower() else "mysql"
        found = _VERSION.match(text)
        return f"{kind} {found[1] if found else text}"

    def address(self) -> Address:
        """See `Server`."""
        return self._address

    def restart(self, *, failed: bool) -> None:
        """Does nothing: who runs the server may start it again."""

    def free_bytes(self) -> None:
        """It is not known."""

    def close(self) -> None:
        """Does nothing."""


def choose_server(options: Options) -> Server:
    """The server that the settings ask for; nothing is started or asked yet.

    Raises:
      BadInputError: the URL is missing or wrong.
    """
    if options.backend == "server":
        return ExternalServer(options.url or os.environ.get(VARIABLE))
    return PrivateServer()
