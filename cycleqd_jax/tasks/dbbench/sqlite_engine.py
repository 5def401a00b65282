"""One statement after another on databases that are handed in and out as bytes.

Nothing of a statement outlives it but the tables: each runs on a database restored
from an image, so sessions, variables and temporary tables end with it, and any process
can run any statement.
"""

import dataclasses
import functools
import hashlib
import re
import sqlite3
from collections.abc import Callable

from cycleqd_jax.tasks.dbbench import sqlite_tables as tables
from cycleqd_jax.tasks.dbbench.sqlite_catalog import (
    Catalog,
    ColumnInfo,
    TableInfo,
    loads,
)
from cycleqd_jax.tasks.dbbench.sqlite_changes import Session, delete, insert, update
from cycleqd_jax.tasks.dbbench.sqlite_collation import like, sort_key
from cycleqd_jax.tasks.dbbench.sqlite_definitions import (
    Alter,
    CreateTable,
    CreateView,
    Drop,
)
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError, unknown_column
from cycleqd_jax.tasks.dbbench.sqlite_format import cell, show
from cycleqd_jax.tasks.dbbench.sqlite_functions import Moment, register
from cycleqd_jax.tasks.dbbench.sqlite_information import show as show_information
from cycleqd_jax.tasks.dbbench.sqlite_lexer import Kind as TokenKind
from cycleqd_jax.tasks.dbbench.sqlite_lexer import open_comments, tokens
from cycleqd_jax.tasks.dbbench.sqlite_parse import parse_query
from cycleqd_jax.tasks.dbbench.sqlite_statements import (
    Delete,
    Idle,
    Insert,
    Select,
    Show,
    Update,
    reader,
)
from cycleqd_jax.tasks.dbbench.sqlite_storing import as_text

MAX_CHARACTERS = 1 << 16  # of a result; more rows are left out
MAX_ROWS_AT_ONCE = 64
MAX_IMAGE_BYTES = 1 << 22
_PAGE_BYTES = 1024
_MAX_BYTES = 1 << 24  # of a text or blob
_REMEMBERED = 2000  # compiled queries
_CONCAT_BYTES = {Flavour.MYSQL8: 1024, Flavour.MARIADB: 1 << 20}
# Exceptions of Python where a value is beyond what our functions reckon with.
_BEYOND = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
# What MySQL's connector says when a further result waits, see `Engine.run`.
OUT_OF_SYNC = "Commands out of sync; you can't run this command now"
_CHANGING = (Insert, Update, CreateTable)  # strict about values
_DEFINING = (Alter, CreateTable, CreateView, Drop)
_COMMITTING = ("COMMIT", "BEGIN", "START", "LOCK", "ANALYZE", "OPTIMIZE", "AUTOCOMMIT")


@dataclasses.dataclass
class State:
    """A database at rest.

    Attributes:
      catalog: its tables, as `Catalog.dumps` writes them.
      image: SQLite's database.
    """

    catalog: str
    image: bytes


class Engine:
    """Runs statements.

    Args:
      flavour: whose rules hold.
      guard: called with a connection that is new, to limit what it may do.
    """

    def __init__(
        self,
        flavour: Flavour,
        guard: Callable[[sqlite3.Connection], None] | None = None,
    ):
        self.flavour = flavour
        self._guard = guard
        self._moment = Moment()
        self._selects: dict[tuple[str, str], tuple[str, list]] = {}
        self._compiled: tuple[str, list] = "", []
        self._connection = self._fresh()
        self._connection.execute("CREATE TABLE t0 (c)")  # an empty image is none
        self._empty = self._connection.serialize()

    def open(self, name: str, columns: list[str], rows: list[list]) -> State:
        """A new database with one table of TEXT columns, named like it.

        Args:
          name: of the database and of the table.
          columns: their names; none for a database without a table.
          rows: cells in the order of the columns, stored as text.

        Raises:
          MySQLError: a server would not make such a table.
        """
        catalog = Catalog(name)
        infos = [ColumnInfo(column, catalog.new_id("c")) for column in columns]
        connection = self._restored(self._empty)
        if not infos:
            connection.rollback()
            return State(catalog.dumps(), self._empty)
        tables._check_columns(infos)
        table = TableInfo(catalog.new_id("t"), infos)
        catalog.tables[name] = table
        names = ", ".join(info.id for info in infos)
        marks = ", ".join("?" * len(infos))
        connection.execute(f"CREATE TABLE {table.id} ({names})")
        connection.executemany(
            f"INSERT INTO {table.id} VALUES ({marks})",
            [[None if c is None else str(c) for c in row] for row in rows],
        )
        connection.commit()
        return State(catalog.dumps(), connection.serialize())

    def run(
        self, state: State, sql: str, now: str, seed: int
    ) -> tuple[str, State | None]:
        """Runs what a model sent.

        Of several statements only the first one's result would be read, and the
        connector then cannot commit: its error is the feedback, and only what a
        definition has committed on the way (CREATE, DROP ...) stays.

        Args:
          state: the database before; not changed.
          sql: the text.
          now: the time that NOW() tells, `YYYY-MM-DD HH:MM:SS`.
          seed: of RAND() and UUID().

        Returns:
          The feedback, whole, and the database after it, None if it is unchanged.

        Raises:
          MySQLError: the statement is wrong; nothing is changed.
        """
        if not sql:
            return "[]", None  # as the connector says; of spaces it is an error
        sql = re.sub(r"[;\s]+\Z", "", open_comments(sql))
        if not sql.strip():
            raise MySQLError(1065, "Query was empty")
        cached = self._selects.get((state.catalog, sql))
        if cached is not None:
            return self._again(state, cached, now, seed), None
        catalog = loads(state.catalog)
        read = reader(sql, tokens(sql, self.flavour), self.flavour)
        if read.token.kind is TokenKind.END:
            return "[]", None  # nothing but a comment
        connection = self._restored(state.image)
        self._moment.start(now, seed)
        session = Session(connection, catalog, self.flavour, self._moment)
        try:
            statement = read.statement()
            self._moment.strict = self._is_strict(statement)
            text = self._one(session, statement)
            if read.word != ";" and isinstance(statement, Select):
                self._remember((state.catalog, sql))
            if read.word == ";":
                return OUT_OF_SYNC, self._rest(session, read, statement)
            changed = not isinstance(statement, (Select, Show, Idle))
            return text, self._kept(session) if changed else None
        except MySQLError as error:
            raise self._named(error, catalog) from None
        finally:
            connection.rollback()

    def hash(self, state: State, columns: list[str]) -> str:
        """The hash of the table's content over its original columns.

        Raises:
          MySQLError: the table or a column is gone.
        """
        catalog = loads(state.catalog)
        table = catalog.table((catalog.database,))
        infos = []
        for name in columns:
            info = table.find(name)
            if info is None:
                raise unknown_column(name, "field list", self.flavour)
            infos.append(info)
        connection = self._restored(state.image)
        names = ", ".join(info.id for info in infos)
        rows = connection.execute(f"SELECT {names} FROM {table.id}").fetchall()
        connection.rollback()
        kinds = [info.type for info in infos]
        hashes = sorted(_row_hash(row, kinds) for row in rows)
        if not hashes:
            return show([(None,)])
        joined = ",".join(hashes)[: _CONCAT_BYTES[self.flavour]]
        return show([(_md5(joined),)])

    # ---- inside

    def _fresh(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            ":memory:", isolation_level=None, cached_statements=0
        )
        # Images are copied a lot, and files cannot be written.
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA temp_store = MEMORY")
        # An index made for a join would change the order of its rows.
        connection.execute("PRAGMA automatic_index = OFF")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        register(connection, self.flavour, self._moment)
        if self._guard is not None:
            self._guard(connection)
        return connection

    def _restored(self, image: bytes) -> sqlite3.Connection:
        self._connection.deserialize(image)
        self._connection.execute("BEGIN")
        return self._connection

    def _kept(self, session: Session) -> State:
        """The database as it is now, without what was temporary."""
        catalog = session.catalog
        pages = session.fetch("PRAGMA page_count")[0][0]
        if pages * _PAGE_BYTES > MAX_IMAGE_BYTES:
            raise MySQLError(1114, f"The table '{catalog.database}' is full")
        for name in [n for n, t in catalog.tables.items() if t.temporary]:
            session.connection.execute(f"DROP TABLE {catalog.tables.pop(name).id}")
        session.connection.commit()
        return State(catalog.dumps(), session.connection.serialize())

    def _rest(self, session: Session, read, first) -> State | None:
        """Runs the further statements; what is committed on the way is kept."""
        kept, always = None, False
        statement = first
        while True:
            word = statement.word if isinstance(statement, Idle) else ""
            always |= word == "AUTOCOMMIT"
            if always or word in _COMMITTING or isinstance(statement, _DEFINING):
                kept = self._kept(session)
                session.connection.execute("BEGIN")
            elif word == "ROLLBACK":
                session.connection.rollback()
                session.connection.execute("BEGIN")
            if read.word != ";":
                return kept
            read.step()
            if read.token.kind is TokenKind.END:
                return kept
            try:
                statement = read.statement()
                self._moment.strict = self._is_strict(statement)
                self._one(session, statement)
            except MySQLError:
                return kept

    def _is_strict(self, statement) -> bool:
        """Whether wrong values are errors in it; MariaDB lets them pass in DELETE."""
        if isinstance(statement, Delete):
            return self.flavour is Flavour.MYSQL8
        changing = isinstance(statement, _CHANGING)
        return changing and not getattr(statement, "ignore", False)

    def _one(self, session: Session, statement) -> str:
        """Runs one statement and gives its rows as text."""
        try:
            if isinstance(statement, Select):
                return self._select(session, statement)
            if isinstance(statement, Show):
                return self._show(session, statement)
            if isinstance(statement, Idle):
                if statement.database not in (None, session.catalog.database):
                    raise MySQLError(1049, f"Unknown database '{statement.database}'")
                return "[]"
            _RUNNERS[type(statement)](session, statement)
            return "[]"
        except RecursionError:
            raise MySQLError(1436, "Thread stack overrun") from None
        except sqlite3.Error as error:
            raise self._translated(error) from None

    def _translated(self, error: sqlite3.Error) -> Exception:
        """What a server would have said instead of SQLite's error."""
        inner = self._moment.error
        if isinstance(inner, MySQLError):
            return inner
        if isinstance(inner, _BEYOND):
            return MySQLError(1105, f"Unknown error ({type(inner).__name__})")
        if inner is not None:
            return inner
        text = str(error)
        if "too many columns" in text:
            return MySQLError(1117, "Too many columns")
        if "too big" in text:
            return MySQLError(1301, "Result was larger than max_allowed_packet")
        if "interrupted" in text or "user-defined" in text:
            return MySQLError(
                3024,
                "Query execution was interrupted, maximum statement execution time "
                "exceeded",
            )
        if "out of memory" in text:
            return MySQLError(1041, "Out of memory")
        return MySQLError(1105, f"Unknown error ({text})")

    def _named(self, error: MySQLError, catalog: Catalog) -> MySQLError:
        text = str(error)
        if "{database}" in text:
            message = text.partition(": ")[2].replace("{database}", catalog.database)
            return MySQLError(error.code, message)
        return error

    def _remember(self, key: tuple[str, str]) -> None:
        """Keeps the query that was compiled last under its catalog and text."""
        if len(self._selects) >= _REMEMBERED:
            del self._selects[next(iter(self._selects))]
        self._selects[key] = self._compiled

    def _again(self, state: State, compiled: tuple, now: str, seed: int) -> str:
        """Runs a query that was compiled before."""
        connection = self._restored(state.image)
        self._moment.start(now, seed)
        try:
            return self._rows(connection, *compiled)
        except sqlite3.Error as error:
            raise self._translated(error) from None
        finally:
            connection.rollback()

    def _select(self, session: Session, statement: Select) -> str:
        query = session.queries().query(parse_query(statement.text))
        kinds = [column.value.type for column in query.columns]
        self._compiled = query.sql, kinds
        return self._rows(session.connection, query.sql, kinds)

    def _rows(self, connection: sqlite3.Connection, sql: str, kinds: list) -> str:
        """The rows of a query for SQLite as text."""
        cursor = connection.execute(sql)
        rows, size = [], 0
        while size < MAX_CHARACTERS and (found := cursor.fetchmany(MAX_ROWS_AT_ONCE)):
            for row in found:
                cells = tuple(map(cell, row, kinds))
                rows.append(cells)
                size += len(str(cells))
        cursor.close()
        return show(rows)[: 2 * MAX_CHARACTERS]

    def _show(self, session: Session, statement: Show) -> str:
        fold = functools.partial(sort_key(self.flavour))

        def fits(name: str) -> bool:
            return statement.like is None or like(name, statement.like, "\\", fold)

        table = statement.table
        what = statement.what
        return show(show_information(session.catalog, what, table, fits, self.flavour))


_RUNNERS = {
    Insert: insert,
    Update: update,
    Delete: delete,
    CreateTable: tables.create_table,
    CreateView: tables.create_view,
    Drop: tables.drop,
    Alter: tables.alter,
}


def _row_hash(row: tuple, kinds: list) -> str:
    texts = [
        as_text(value, kind)
        for value, kind in zip(row, kinds, strict=True)
        if value is not None
    ]
    return _md5(",".join(texts))[:5]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
