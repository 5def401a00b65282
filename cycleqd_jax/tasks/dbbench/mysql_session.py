"""What is said to a server in one session: a model's statement, a problem's table.

A session is like one of the reference's connector: nothing is committed until the first
result was read, and then only if there is no second.
"""

import itertools
import re
import time
from collections.abc import Callable, Sequence

from pymysql import err
from pymysql.connections import Connection
from pymysql.cursors import SSCursor

from cycleqd_jax.tasks.dbbench.backend import OUT_OF_SYNC, Feedback, Table
from cycleqd_jax.tasks.dbbench.mysql_server import LOST, Server, close_quietly, run
from cycleqd_jax.tasks.dbbench.mysql_slots import Login, Slot
from cycleqd_jax.tasks.dbbench.mysql_text import (
    converters,
    error_code,
    error_text,
    finishers,
    message,
    row_text,
)

_MODE = (  # of MySQL 8, which is what the reference runs; MariaDB's own is milder
    "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,"
    "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
)
_GRACE_S = 5.0  # for the server to end a statement by itself
# A model can have texts sent in a charset that they are not announced in.
_UNREADABLE = (ValueError, ArithmeticError, TypeError, IndexError)
_KEPT = 65_536  # characters of a feedback
_MOST_ROWS = 100_000  # that are read when enough is kept already
_ACCESS_DENIED = (1045, 1698, 1862, 4151, 3118)  # passwords wrong, expired, locked
_UNKNOWN_DATABASE = (1044, 1049)  # dropped by the model
_NO_ROOM = (3, 1021, 1026, 1030, 1114)
_NO_SPACE = re.compile(r"\b28\b|No space left|is full|Disk full")
# What a server has against the tables of some problems: names that are twice there, too
# long, empty; and against rows for a table of other columns.
_BAD_TABLE = (1054, 1059, 1060, 1074, 1103, 1117, 1118, 1166)


class AccountChangedError(Exception):
    """The account that was made for a problem is no longer let in."""


class ConnectionLostError(Exception):
    """The connection ended in the middle of a statement.

    Attributes:
      thread: the server's number of it.
      text: the error as a feedback.
    """

    def __init__(self, thread: int, text: str):
        super().__init__(text)
        self.thread = thread
        self.text = text


def run_statement(
    server: Server,
    slot: Slot,
    login: Login,
    sql: str,
    limit_s: float,
    connected: Callable[[int], None],
) -> Feedback:
    """Runs a statement in a session of its own, and commits it.

    Args:
      server: to connect to.
      slot: whose database is used.
      login: one of its accounts.
      sql: of the model or the judge.
      limit_s: seconds it may take.
      connected: told the server's number of the connection before it begins.

    Raises:
      AccountChangedError: the account is not let in.
      ConnectionLostError: the connection ended before the statement did.
      MySQLError: there is no connection to be had.
    """
    if not sql:
        return Feedback("[]", False)
    try:
        sql.encode("utf-8")
    except UnicodeEncodeError as error:
        return Feedback(str(error), True)
    try:
        connection = server.connect(
            login.user,
            login.password,
            database=slot.database,
            read_timeout_s=limit_s + _GRACE_S,
            init=_session(server, limit_s),
            conv=converters(),
        )
    except err.MySQLError as error:
        if error_code(error) in _ACCESS_DENIED:
            raise AccountChangedError from error
        if error_code(error) in _UNKNOWN_DATABASE:
            # With no right to any other database, servers say denied for unknown.
            text = f"1049 (42000): Unknown database '{slot.database}'"
            return Feedback(text, True)
        raise
    connected(connection.thread_id())
    try:
        return _execute(connection, sql, limit_s)
    except err.MySQLError as error:
        if error_code(error) in LOST:
            text = "2013 (HY000): Lost connection to MySQL server during query"
            raise ConnectionLostError(connection.thread_id(), text) from error
        return Feedback(error_text(error), True)
    except _UNREADABLE as error:
        return Feedback(str(error), True)
    finally:
        close_quietly(connection)  # which rolls back what is not committed


def make_tables(
    server: Server, admin: Connection, slot: Slot, tables: Sequence[Table]
) -> None:
    """Makes the database, empty of what may be there, and the table in it.

    Args:
      server: the server.
      admin: a connection of its administrator.
      slot: whose database is made.
      tables: what it will hold; of several of one name the first makes the table and
        the others add their rows, where the server takes them.

    Raises:
      MySQLError: the server refuses, or is gone.
    """
    database = f"`{slot.database}`"
    # MySQL 8's own; of MariaDB's the one that all versions know.
    collation = " COLLATE utf8mb4_general_ci" if server.mariadb else ""
    run(
        admin,
        f"DROP DATABASE IF EXISTS {database}; "
        f"CREATE DATABASE {database} CHARACTER SET utf8mb4{collation}",
    )
    for table in tables:
        name = f"{database}.{_quoted(table.name)}"
        columns = [_quoted(column) for column in table.columns]
        definition = ",".join(f"{column} TEXT" for column in columns)
        sql = f"CREATE TABLE IF NOT EXISTS {name} ({definition})"
        if table.rows:
            rows = ",".join(
                "(" + ",".join(admin.escape(str(cell)) for cell in row) + ")"
                for row in table.rows
            )
            sql += f"; INSERT INTO {name} ({','.join(columns)}) VALUES {rows}"
        try:
            run(admin, sql)
        except err.MySQLError as error:
            if error_code(error) not in _BAD_TABLE:
                raise  # else there is no table, or no row of it, as in the reference


def state_query(table: Table) -> str:
    """Hashes the original columns of all rows, whatever their order."""
    columns = ",".join(_quoted(column) for column in table.columns)
    return (
        "SELECT MD5(GROUP_CONCAT(rowhash ORDER BY rowhash)) AS hash FROM "
        f"(SELECT SUBSTRING(MD5(CONCAT_WS(',', {columns})), 1, 5) AS rowhash "
        f"FROM {_quoted(table.name)}) AS sub;"
    )


def says_disk_full(feedback: Feedback) -> bool:
    """Whether a statement failed for want of room, by its own words."""
    code = feedback.text.partition(" ")[0]
    if not feedback.failed or not code.isdigit() or int(code) not in _NO_ROOM:
        return False
    return _NO_SPACE.search(feedback.text) is not None


def _execute(connection: Connection, sql: str, limit_s: float) -> Feedback:
    deadline = time.monotonic() + limit_s + _GRACE_S
    cursor = connection.cursor(SSCursor)
    try:
        cursor.execute(sql)
        text, whole = _read_rows(cursor, deadline)
        if not whole:  # enough for any reader; the rest is not waited for
            return Feedback(text, False)
        if _has_more(cursor, deadline):
            return Feedback(OUT_OF_SYNC, True)
    finally:
        _let_go(cursor)
    try:
        connection.commit()
    except err.MySQLError as error:
        if error_code(error) in LOST:
            raise
        return Feedback(message(error), True)  # the connector gives its words alone
    return Feedback(text, False)


def _read_rows(cursor: SSCursor, deadline: float) -> tuple[str, bool]:
    """The rows' text, and whether all of them were read."""
    if cursor.description is None:
        return "[]", True
    # The charset and flags of columns decide what the connector makes of their values;
    # PyMySQL has them here only.
    finish = finishers(cursor._result.fields)
    rows: list[str] = []
    size = 0
    for count in itertools.count(1):
        row = cursor.fetchone()
        if row is None:
            return f"[{', '.join(rows)}]", True
        if size < _KEPT:
            rows.append(row_text(row, finish))
            size += len(rows[-1]) + 2
        elif count > _MOST_ROWS or time.monotonic() > deadline:
            break
    return f"[{', '.join(rows)}]", False


def _has_more(cursor: SSCursor, deadline: float) -> bool:
    """Whether there is a second result; all of them are waited for and thrown away."""
    more = False
    try:
        while cursor.nextset():
            more = True
            for count in itertools.count(1):
                if cursor.fetchone() is None:
                    break
                if count > _MOST_ROWS or time.monotonic() > deadline:
                    return True
    except err.MySQLError as error:
        if error_code(error) in LOST:
            raise
        return True  # of a statement that is not the first
    except _UNREADABLE:
        return True
    return more


def _let_go(cursor: SSCursor) -> None:
    """Keeps a cursor from reading the rest of its result when it is thrown away."""
    if cursor._result is not None:
        cursor._result.unbuffered_active = False
    cursor.connection = None


def _session(server: Server, limit_s: float) -> str:
    """The settings of a session; a model may change them for itself."""
    settings = {
        "autocommit": "0",
        "sql_mode": f"'{_MODE}'",
        "group_concat_max_len": "1048576",
        "lock_wait_timeout": str(max(1, int(limit_s))),
        "innodb_lock_wait_timeout": str(max(1, int(limit_s))),
    }
    if server.mariadb:
        settings["max_statement_time"] = f"{limit_s:.3f}"
        settings["tmp_disk_table_size"] = str(256 * 2**20)
    else:
        settings["max_execution_time"] = str(int(limit_s * 1000))
    return "SET SESSION " + ", ".join(f"{k}={v}" for k, v in settings.items())


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
