"""The SQL of one problem: make its table, run a statement, hash the table.

A statement has a connection of its own, as in the reference: nothing is committed until
its first result was read, and then only if there is no second one.
"""

import itertools
import re
import time
from collections.abc import Callable, Sequence

from pymysql import err
from pymysql.converters import escape_string
from pymysql.cursors import SSCursor

from cycleqd_jax.tasks.dbbench.accounts import Slot
from cycleqd_jax.tasks.dbbench.administrator import Administrator
from cycleqd_jax.tasks.dbbench.connection import (
    LOST,
    Connection,
    close_quietly,
    connect,
    error_code,
    error_text,
    message,
)
from cycleqd_jax.tasks.dbbench.connector_text import converters, finishers, row_text
from cycleqd_jax.tasks.dbbench.table import OUT_OF_SYNC, Feedback, Table

_MODE = (  # MySQL 8's default, which the reference runs with; MariaDB's is less strict
    "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,"
    "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
)
GRACE_S = 5.0  # after its time limit, for the server to end a statement by itself
# Raised by PyMySQL for a value it cannot decode, for example after `SET NAMES`.
_UNREADABLE = (ValueError, ArithmeticError, TypeError, IndexError)
_MAX_CHARS = 65_536  # of a feedback
_MAX_ROWS = 100_000  # read at most, once enough characters are kept
_ACCESS_DENIED = (1045, 1698, 1862, 4151, 3118)  # wrong, expired or locked
_UNKNOWN_DATABASE = (1044, 1049)  # the model dropped it
_NO_ROOM = (3, 1021, 1026, 1030, 1114)  # only if the message matches `_NO_SPACE`
_NO_SPACE = re.compile(r"\b28\b|No space left|is full|Disk full")
_NO_MEMORY = (5, 1037, 1041, 1135)
_CORRUPT = (126, 127, 134, 144, 145, 1034, 1035, 1194)  # a full disk corrupts tables
# The server refuses the tables of some problems: a column name is repeated, too long or
# empty, or a second table of the same name has other columns.
_BAD_TABLE = (1054, 1059, 1060, 1074, 1103, 1117, 1118, 1166)


class AccountChangedError(Exception):
    """The server no longer accepts the account that was made for a problem."""


class ConnectionLostError(Exception):
    """The connection ended before the statement did.

    Attributes:
      connection: its id on the server.
      text: the error as a feedback.
    """

    def __init__(self, connection: int, text: str):
        super().__init__(text)
        self.connection = connection
        self.text = text


def run_statement(
    admin: Administrator,
    slot: Slot,
    sql: str,
    limit_s: float,
    connected: Callable[[int], None],
) -> Feedback:
    """Runs a statement on a connection of its own, and commits it.

    As with the reference's connector, `sql` may hold one statement only. If there is a
    second result, the commit fails with `OUT_OF_SYNC`, and everything not committed
    implicitly is rolled back. A procedure that returns rows has two results. An error
    in the first statement is reported as usual.

    Args:
      admin: of the server.
      slot: the database that is used, and its account.
      sql: the statement.
      limit_s: seconds it may take.
      connected: called with the connection's id before the statement runs.

    Raises:
      AccountChangedError: the server does not accept the account.
      ConnectionLostError: the connection ended before the statement did.
      MySQLError: the server cannot be reached or refuses the connection.
    """
    if not sql:
        return Feedback("[]", False)
    try:
        sql.encode("utf-8")
    except UnicodeEncodeError as error:
        return Feedback(str(error), True)
    try:
        connection = connect(
            admin.address,
            slot.user,
            slot.password,
            database=slot.database,
            read_timeout_s=limit_s + GRACE_S,
            init=_settings(admin.mariadb, limit_s),
            conv=converters(),
        )
    except err.MySQLError as error:
        if error_code(error) in _ACCESS_DENIED:
            raise AccountChangedError from error
        if error_code(error) in _UNKNOWN_DATABASE:
            # Without a right to any other database, servers say denied for unknown.
            text = f"1049 (42000): Unknown database '{slot.database}'"
            return Feedback(text, True)
        raise
    try:
        connected(connection.thread_id())
        return _execute(connection, sql, limit_s)
    except err.MySQLError as error:
        if error_code(error) in LOST:
            text = "2013 (HY000): Lost connection to MySQL server during query"
            raise ConnectionLostError(connection.thread_id(), text) from error
        return Feedback(error_text(error), True, _is_exhausted(error))
    except _UNREADABLE as error:
        return Feedback(str(error), True)
    finally:
        close_quietly(connection)  # rolls back what is not committed


def make_tables(admin: Administrator, slot: Slot, tables: Sequence[Table]) -> None:
    """Makes an empty database and the problem's table in it.

    Args:
      admin: of the server.
      slot: whose database is made.
      tables: the tables to create. If several share a name, the first creates it, and
        the others insert their rows if the server accepts them.

    Raises:
      MySQLError: the server refuses, or is gone.
    """
    database = f"`{slot.database}`"
    # MySQL 8 has its own; of MariaDB's this is the one that all versions know.
    collation = " COLLATE utf8mb4_general_ci" if admin.mariadb else ""
    admin.run(
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
                "(" + ",".join(_literal(cell) for cell in row) + ")"
                for row in table.rows
            )
            sql += f"; INSERT INTO {name} ({','.join(columns)}) VALUES {rows}"
        try:
            admin.run(sql)
        except err.MySQLError as error:
            # As in the reference, a table that the server refuses is missing.
            if error_code(error) not in _BAD_TABLE:
                raise


def state_query(table: Table) -> str:
    """A query for a hash of the original columns of all rows, whatever their order."""
    columns = ",".join(_quoted(column) for column in table.columns)
    return (
        "SELECT MD5(GROUP_CONCAT(rowhash ORDER BY rowhash)) AS hash FROM "
        f"(SELECT SUBSTRING(MD5(CONCAT_WS(',', {columns})), 1, 5) AS rowhash "
        f"FROM {_quoted(table.name)}) AS sub;"
    )


def _execute(connection: Connection, sql: str, limit_s: float) -> Feedback:
    deadline = time.monotonic() + limit_s + GRACE_S
    cursor = connection.cursor(SSCursor)
    try:
        cursor.execute(sql)
        text, whole = _read_rows(cursor, deadline)
        if not whole:  # the rest would not be shown
            return Feedback(text, False)
        if _has_more(cursor, deadline):
            return Feedback(OUT_OF_SYNC, True)
    finally:
        _discard_rest(cursor)
    try:
        connection.commit()
    except err.MySQLError as error:
        if error_code(error) in LOST:
            raise
        # Without the number: here the connector gives the words alone.
        return Feedback(message(error), True, _is_exhausted(error))
    return Feedback(text, False)


def _read_rows(cursor: SSCursor, deadline: float) -> tuple[str, bool]:
    """The text of the rows, and whether it has all rows."""
    if cursor.description is None:
        return "[]", True
    finish = finishers(cursor._result.fields)  # PyMySQL has them here only
    rows: list[str] = []
    size = 0
    for count in itertools.count(1):
        row = cursor.fetchone()
        if row is None:
            return f"[{', '.join(rows)}]", True
        if size < _MAX_CHARS:
            rows.append(row_text(row, finish))
            size += len(rows[-1]) + 2
        elif count > _MAX_ROWS or time.monotonic() > deadline:
            break
    return f"[{', '.join(rows)}]", False


def _has_more(cursor: SSCursor, deadline: float) -> bool:
    """Reads and drops further results; tells whether there was one."""
    more = False
    try:
        while cursor.nextset():
            more = True
            for count in itertools.count(1):
                if cursor.fetchone() is None:
                    break
                if count > _MAX_ROWS or time.monotonic() > deadline:
                    return True
    except err.MySQLError as error:
        if error_code(error) in LOST:
            raise
        return True  # the error of a statement that is not the first
    except _UNREADABLE:
        return True
    return more


def _discard_rest(cursor: SSCursor) -> None:
    """Keeps PyMySQL from reading the rest of a result when the cursor is deleted."""
    if cursor._result is not None:
        cursor._result.unbuffered_active = False
    cursor.connection = None


def _is_exhausted(error: err.MySQLError) -> bool:
    """True if the server ran out of disk space or memory."""
    code = error_code(error)
    if code in _NO_ROOM:
        return _NO_SPACE.search(message(error)) is not None
    return code in (*_NO_MEMORY, *_CORRUPT)


def _settings(mariadb: bool, limit_s: float) -> str:
    """The settings of a connection; a model may change them for its statement."""
    settings = {
        "autocommit": "0",
        "sql_mode": f"'{_MODE}'",
        "group_concat_max_len": "1048576",
        "lock_wait_timeout": str(max(1, int(limit_s))),
        "innodb_lock_wait_timeout": str(max(1, int(limit_s))),
    }
    if mariadb:
        settings["max_statement_time"] = f"{limit_s:.3f}"
        settings["tmp_disk_table_size"] = str(256 * 2**20)
    else:
        settings["max_execution_time"] = str(int(limit_s * 1000))
    return "SET SESSION " + ", ".join(f"{k}={v}" for k, v in settings.items())


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _literal(cell: object) -> str:
    return "'" + escape_string(str(cell)) + "'"
