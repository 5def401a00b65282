"""A real MariaDB server for tests: private folder, private port, stopped by its pid."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pymysql
import pytest

_START_S = 60.0
# Nothing of a test has to outlive a crash of the machine.
_FAST = (
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--innodb-buffer-pool-size=64M",
    "--sync-frm=0",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--performance-schema=OFF",
)


class MariaDB:
    """One server; `start` and `stop` may be called in turn.

    Attributes:
      folder: all it writes.
      port: on 127.0.0.1.
      url: of its administrator over TCP.
      socket_url: the same over its socket.
    """

    def __init__(self, folder: pathlib.Path, spare: int | None = None):
        self.folder = folder
        self.port = _free_port()
        self.url = f"mysql://admin:secret@127.0.0.1:{self.port}"
        self.socket = folder / "socket"
        self.socket_url = f"mysql://admin:secret@localhost?unix_socket={self.socket}"
        self._spare = spare
        self._process: subprocess.Popen | None = None

    def install(self) -> None:
        """Makes the data folder and the administrator."""
        # Over a root without a password, which only this folder's owner can reach:
        # the bootstrap below runs before the server listens.
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--user={_user()}",
                f"--datadir={self.folder / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            check=True,
            capture_output=True,
            timeout=_START_S,
        )
        (self.folder / "init.sql").write_text(
            "CREATE USER IF NOT EXISTS admin@localhost IDENTIFIED BY 'secret';\n"
            "GRANT ALL ON *.* TO admin@localhost WITH GRANT OPTION;\n"
            "CREATE USER IF NOT EXISTS admin@'127.0.0.1' IDENTIFIED BY 'secret';\n"
            "GRANT ALL ON *.* TO admin@'127.0.0.1' WITH GRANT OPTION;\n"
            "SET PASSWORD FOR root@localhost = PASSWORD('closed');\n"
        )

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._small_disk(),
                    _program(),
                    "--no-defaults",
                    f"--user={_user()}",
                    f"--datadir={self._data}",
                    f"--socket={self.socket}",
                    f"--pid-file={self.folder / 'pid'}",
                    f"--init-file={self.folder / 'init.sql'}",
                    "--bind-address=127.0.0.1",
                    f"--port={self.port}",
                    *_FAST,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self.folder)},
            )
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.connect().close()
                return
            except pymysql.err.OperationalError as err:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    text = (self.folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"No MariaDB: {text[-2000:]}") from err
                time.sleep(0.05)

    def connect(self) -> pymysql.connections.Connection:
        """A connection as the administrator."""
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            ssl_disabled=True,
            user="admin",
            password="secret",
            charset="utf8mb4",
            autocommit=True,
            read_timeout=20,
        )

    def query(self, sql: str) -> list[tuple]:
        """The rows of one statement as the administrator."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def send(self, number: int) -> None:
        """Sends the server a signal, as SIGSTOP for one that hangs."""
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """Ends the server; its data are worth nothing, so it is not asked kindly."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_START_S)
            self._process = None

    @property
    def _data(self) -> pathlib.Path:
        return self.folder / ("data" if self._spare is None else "disk/data")

    def _small_disk(self) -> list[str]:
        """What starts a program with the data on a disk that is nearly full."""
        if self._spare is None:
            return []
        data, disk = self.folder / "data", self.folder / "disk"
        used = sum(file.stat().st_size for file in data.rglob("*"))
        return [
            "bwrap",
            "--die-with-parent",
            *("--dev-bind", "/", "/"),
            *("--size", str(used + self._spare), "--tmpfs", str(disk)),
            *("sh", "-c", 'cp -r "$0" "$1" && shift && exec "$@"', str(data)),
            str(self._data),
        ]


@contextlib.contextmanager
def running(folder: pathlib.Path, spare: int | None = None) -> Iterator[MariaDB]:
    """A fresh server; the test is skipped where none is installed.

    Args:
      folder: all it writes.
      spare: bytes that its disk has room for; None is all of this machine's.
    """
    skip_without()
    server = MariaDB(folder, spare)
    try:
        server.install()
        server.start()
        yield server
    finally:
        server.stop()


def skip_without() -> None:
    """Skips the test where no MariaDB server is installed."""
    if _program() is None or shutil.which("mariadb-install-db") is None:
        pytest.skip("mariadb-server is not installed")


def _program() -> str | None:
    return shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")


def _user() -> str:
    """The server refuses to run as root unless told to."""
    return "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
