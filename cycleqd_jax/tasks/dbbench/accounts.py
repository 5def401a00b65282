"""Names of databases, each with an account that may use only that database.

A server grants rights on a database's name, whether the database exists or not. So a
name and its account are made once and serve one problem after another.
"""

import dataclasses
import secrets
import threading

from pymysql import err

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.dbbench.administrator import Administrator
from cycleqd_jax.tasks.dbbench.connection import close_quietly, connect, run

_RIGHTS = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, "
    "CREATE TEMPORARY TABLES, LOCK TABLES, CREATE VIEW, SHOW VIEW, TRIGGER, "
    "CREATE ROUTINE, ALTER ROUTINE, EXECUTE"
)
# Every account may see these; they hold nothing of a problem.
_PUBLIC = ("information_schema", "performance_schema")


@dataclasses.dataclass(frozen=True)
class Slot:
    """A database's name and the account that may use it.

    Attributes:
      database: the name.
      user: of the account, which runs what a model writes and reads the table's state.
      password: drawn anew for each.
    """

    database: str
    user: str
    password: str = dataclasses.field(repr=False)


class Slots:
    """The slots on one life of a server; may be used from any thread."""

    def __init__(self, admin: Administrator):
        """Makes the first slot and checks what its account may see.

        Raises:
          BadInputError: it sees more than its database.
          MySQLError: its account cannot be made.
        """
        self._admin = admin
        self._lock = threading.Lock()
        self._free: list[Slot] = []
        self._made = 0
        slot = self.take()
        _check_rights(admin, slot)
        self.give_back(slot)

    def take(self) -> Slot:
        """A slot for one problem alone, until it is given back.

        Raises:
          MySQLError: its account cannot be made.
        """
        with self._lock:
            if self._free:
                return self._free.pop()
            number, self._made = self._made, self._made + 1
        slot = Slot(
            self._admin.name(number, "db"),
            self._admin.name(number, "user"),
            _password(),
        )
        self.make_account(slot)
        return slot

    def give_back(self, slot: Slot) -> None:
        """Frees a slot whose database was dropped and that nothing uses any more."""
        with self._lock:
            self._free.append(slot)

    def make_account(self, slot: Slot) -> None:
        """Makes a slot's account, or makes it as it was if a model changed it.

        Raises:
          MySQLError: the server refuses, or is gone.
        """
        account = f"'{slot.user}'@'{self._admin.host}'"
        self._admin.run(
            f"DROP USER IF EXISTS {account}; "
            f"CREATE USER {account} IDENTIFIED BY '{slot.password}'; "
            f"GRANT {_RIGHTS} ON `{slot.database}`.* TO {account}"
        )


def _check_rights(admin: Administrator, slot: Slot) -> None:
    """Checks that a problem's account reaches nothing but its database.

    Some servers let every account into databases called `test`, by grants to an account
    without a name; there a model could leave something for other problems.
    """
    other = f"test_{secrets.token_hex(6)}"
    connection = connect(admin.address, slot.user, slot.password, read_timeout_s=30.0)
    try:
        seen = {name for (name,) in run(connection, "SHOW DATABASES")}
        extra = seen - {slot.database, *_PUBLIC}
        try:
            run(connection, f"CREATE DATABASE `{other}`")
        except (err.OperationalError, err.ProgrammingError):
            pass  # as it should be
        else:
            admin.run(f"DROP DATABASE `{other}`")
            extra.add("test_*")
    finally:
        close_quietly(connection)
    if extra:
        raise BadInputError(
            f"The {admin.address} lets every account into {', '.join(sorted(extra))}, "
            "where models could leave things for one another; take those grants away "
            "(mariadb-secure-installation does it)."
        )


def _password() -> str:
    # Letters of both kinds, a digit and a sign, for servers that ask for all of them.
    return f"aA1-{secrets.token_hex(16)}"
