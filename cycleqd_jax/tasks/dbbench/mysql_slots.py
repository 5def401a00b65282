"""Names and accounts of databases, made once and used by one problem after another.

Rights are given on a database's name, whether it exists or not. So two accounts are
made for each name and stay when a problem's database is dropped:

- the model's may do everything within the database and nothing outside it;
- the judge's may read it. What it reads can be the model's work (a view, say, that
  calls a function): with these rights that can do no more than the model could.
"""

import dataclasses
import secrets
import threading

from pymysql import err
from pymysql.connections import Connection

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.dbbench.mysql_server import Guard, Server, close_quietly, run

_MODEL_RIGHTS = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, "
    "CREATE TEMPORARY TABLES, LOCK TABLES, CREATE VIEW, SHOW VIEW, TRIGGER, "
    "CREATE ROUTINE, ALTER ROUTINE, EXECUTE"
)
_JUDGE_RIGHTS = "SELECT, SHOW VIEW, EXECUTE"
# What every account of a server may see; neither holds anything of a problem.
_PUBLIC = ("information_schema", "performance_schema")


@dataclasses.dataclass(frozen=True)
class Login:
    """An account.

    Attributes:
      user: its name.
      password: drawn anew for each.
    """

    user: str
    password: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Slot:
    """A database's name and who may use it.

    Attributes:
      database: the name.
      model: runs what a model writes.
      judge: reads the table's state.
    """

    database: str
    model: Login
    judge: Login


class Slots:
    """Slots that are free, and new ones where none is; may be used from any thread."""

    def __init__(self, server: Server):
        self._server = server
        self._lock = threading.Lock()
        self._free: list[Slot] = []
        self._made = 0

    def take(self, admin: Connection) -> Slot:
        """A slot that nobody else has until it is given back.

        Raises:
          MySQLError: its accounts cannot be made.
        """
        with self._lock:
            if self._free:
                return self._free.pop()
            number, self._made = self._made, self._made + 1
        slot = Slot(
            self._server.name(number, "db"),
            Login(self._server.name(number, "m"), _password()),
            Login(self._server.name(number, "j"), _password()),
        )
        self.make_accounts(admin, slot)
        return slot

    def give_back(self, slot: Slot) -> None:
        """Makes a slot free again; its database must be gone, and all that used it."""
        with self._lock:
            self._free.append(slot)

    def make_accounts(self, admin: Connection, slot: Slot) -> None:
        """Makes a slot's accounts, anew if a model did something to its own."""
        sql = []
        for login, rights in ((slot.model, _MODEL_RIGHTS), (slot.judge, _JUDGE_RIGHTS)):
            account = f"'{login.user}'@'{self._server.host}'"
            sql += [
                f"DROP USER IF EXISTS {account}",
                f"CREATE USER {account} IDENTIFIED BY '{login.password}'",
                f"GRANT {rights} ON `{slot.database}`.* TO {account}",
            ]
        run(admin, "; ".join(sql))


def check_rights(server: Server, guard: Guard, slot: Slot) -> None:
    """A model's account sees nothing but its database.

    Some servers let everybody into databases called `test`, by grants to an account
    without a name; there a model could leave something for other problems.

    Raises:
      BadInputError: it sees more.
      MySQLError: the server is gone.
    """
    login, other = slot.model, f"test_{secrets.token_hex(6)}"
    connection = server.connect(login.user, login.password, read_timeout_s=30.0)
    try:
        seen = {name for (name,) in run(connection, "SHOW DATABASES")}
        extra = seen - {slot.database, *_PUBLIC}
        try:
            run(connection, f"CREATE DATABASE `{other}`")
        except (err.OperationalError, err.ProgrammingError):
            pass  # as it should be
        else:
            guard.query(f"DROP DATABASE `{other}`")
            extra.add("test_*")
    finally:
        close_quietly(connection)
    if extra:
        raise BadInputError(
            f"The MySQL server at {server.address} lets every account into "
            f"{', '.join(sorted(extra))}, where models could leave things for one "
            "another; take those grants away (mariadb-secure-installation does it)."
        )


def _password() -> str:
    # Letters of both kinds, a digit and a sign, for servers that ask for all.
    return f"aA1-{secrets.token_hex(16)}"
