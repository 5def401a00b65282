"""The MariaDB server that is installed here, and how a private one is set up."""

import dataclasses
import functools
import os
import re
import shutil
from pathlib import Path

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox import permission
from cycleqd_jax.sandbox.host import SEARCH_PATH
from cycleqd_jax.tasks.dbbench import private_inside as inside

USER = "cycleqd"  # the administrator of a private server
_VERSION = re.compile(r"Ver (\d+\.\d+)\.\d+-MariaDB")
_CHARSETS = re.compile(r"^character-sets-dir\s+(\S+)$", re.M)
_SETTINGS = (
    f"--datadir={inside.FOLDER}/{inside.DATA}",
    f"--tmpdir={inside.FOLDER}/{inside.TEMPORARY}",
    f"--socket={inside.FOLDER}/{inside.SOCKET}",
    f"--pid-file={inside.FOLDER}/pid",
    # Nothing but our socket, and no files.
    "--skip-networking",
    "--skip-name-resolve",
    "--local-infile=0",
    f"--secure-file-priv={inside.FOLDER}/{inside.NO_FILES}",
    # Nothing is kept beyond the run.
    "--skip-log-bin",
    "--sync-binlog=0",
    "--log-warnings=0",
    "--skip-stack-trace",  # writing it can hang in a server that has crashed
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-use-native-aio=0",
    "--innodb-stats-persistent=0",
    # Small: the tables are.
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=8M",
    "--performance-schema=OFF",
    "--max-connections=200",
    # What a statement may use at most, whatever it sets for its connection.
    "--max-session-mem-used=128M",
    "--maximum-max-session-mem-used=128M",
    "--maximum-max-heap-table-size=16M",
    "--maximum-tmp-memory-table-size=16M",
    "--maximum-tmp-disk-table-size=256M",
    "--maximum-sort-buffer-size=16M",
    "--maximum-join-buffer-size=16M",
    "--innodb-temp-data-file-path=ibtmp1:12M:autoextend:max:512M",
    # The defaults of MySQL 8, which the reference uses.
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_general_ci",
)
_SQL = """
create database mysql;
use mysql;
{tables}
flush privileges;
create user {user}@localhost identified by '{password}';
grant all on *.* to {user}@localhost with grant option;
revoke file on *.* from {user}@localhost;
"""


@dataclasses.dataclass(frozen=True)
class Program:
    """An installed MariaDB server.

    Attributes:
      path: of the program.
      version: its series, like "10.11"; releases of one series give the same verdicts.
      tables: the SQL that makes the system tables of a new server.
    """

    path: Path
    version: str
    tables: str

    @property
    def command(self) -> list[str]:
        """The command line, for inside the sandbox."""
        prefix = self.path.parent.parent
        return [str(self.path), "--no-defaults", f"--basedir={prefix}", *_SETTINGS]

    @property
    def mounts(self) -> list[str]:
        """Arguments of bubblewrap for what the sandbox needs beside the system."""
        prefix = self.path.parent.parent
        inside_usr = prefix.is_relative_to("/usr")
        return [] if inside_usr else ["--ro-bind", str(prefix), str(prefix)]

    def setup(self, password: str) -> bytes:
        """The SQL that makes a new server with an administrator of this password."""
        sql = _SQL.format(tables=self.tables, user=USER, password=password)
        return sql.encode()


def find_program() -> Program:
    """Finds the server's program.

    Raises:
      BadInputError: it is not installed, or not whole.
    """
    folders = f"{os.environ.get('PATH', os.defpath)}:{SEARCH_PATH}:/usr/local/sbin"
    found = shutil.which("mariadbd", path=folders)
    if found is None:
        raise BadInputError(
            "Task dbbench needs a MariaDB server, but the program mariadbd was not "
            "found; install it with: sudo apt-get install mariadb-server"
        )
    return _inspect(Path(found).resolve())


@functools.lru_cache(maxsize=4)
def _inspect(path: Path) -> Program:
    ask = [str(path), "--no-defaults", f"--basedir={path.parent.parent}"]
    _, *said = permission.start([*ask, "--verbose", "--help"])
    text = b"".join(said).decode(errors="replace")
    version, charsets = _VERSION.search(text), _CHARSETS.search(text)
    if version is not None and charsets is not None:
        for file in sorted(Path(charsets[1]).parent.glob("*_system_tables.sql")):
            return Program(path, version[1], file.read_text(encoding="utf-8"))
    raise BadInputError(
        f"Task dbbench needs a MariaDB server, but {path} is none that is whole; "
        "install it again with: sudo apt-get install --reinstall mariadb-server"
    )
