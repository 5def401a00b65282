"""The grammar of MySQL's statements; see `sqlite_grammar` for what they hold."""

import dataclasses

from cycleqd_jax.tasks.dbbench.sqlite_alterations import AlterationReader
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_lexer import Kind, Token

Name = tuple[str, ...]  # a table's name, its database's before it if it was given


@dataclasses.dataclass(frozen=True)
class Select:
    """A query. Attributes: text: its plain form."""

    text: str


@dataclasses.dataclass(frozen=True)
class Insert:
    """INSERT or REPLACE.

    Attributes:
      table: its name.
      columns: names in the order of the values, or None for all.
      rows: the values of each row in plain form, or None where `query` gives them.
      query: plain form, or None.
      replace: whether rows with the same key are removed first.
      ignore: whether errors are passed over.
      updates: ON DUPLICATE KEY UPDATE, (column, plain form) pairs.
    """

    table: Name
    columns: tuple[str, ...] | None
    rows: tuple[tuple[str, ...], ...] | None
    query: str | None
    replace: bool
    ignore: bool
    updates: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Update:
    """UPDATE.

    Attributes:
      source: the tables, as they would follow FROM.
      assignments: (column's name in its parts, plain form of the value) pairs.
      tail: WHERE, ORDER BY and LIMIT in plain form.
      ignore: whether errors are passed over.
    """

    source: str
    assignments: tuple[tuple[Name, str], ...]
    tail: str
    ignore: bool


@dataclasses.dataclass(frozen=True)
class Delete:
    """DELETE. Attributes: targets: aliases of the tables that lose rows; see Update."""

    targets: tuple[str, ...]
    source: str
    tail: str


@dataclasses.dataclass(frozen=True)
class Show:
    """SHOW, DESCRIBE and EXPLAIN.

    Attributes:
      what: like "TABLES", "COLUMNS", "CREATE TABLE", "EXPLAIN".
      table: its name, or ().
      like: the pattern of LIKE, or None.
    """

    what: str
    table: Name = ()
    like: str | None = None


@dataclasses.dataclass(frozen=True)
class Idle:
    """A statement that is right and has no effect on tables: SET, BEGIN, COMMIT ...

    Attributes:
      word: it begins with; AUTOCOMMIT where it turns that on.
      database: of USE.
    """

    word: str
    database: str | None = None


_IDLE = frozenset(
    """
BEGIN START COMMIT ROLLBACK SAVEPOINT RELEASE SET LOCK UNLOCK FLUSH ANALYZE OPTIMIZE
CHECK REPAIR DO
""".split()
)
_DENIED = frozenset(
    """
CALL GRANT REVOKE LOAD HANDLER PREPARE EXECUTE DEALLOCATE KILL PURGE CHANGE STOP RESET
INSTALL UNINSTALL SHUTDOWN RESTART CLONE IMPORT CACHE BINLOG XA SIGNAL RESIGNAL GET
HELP
""".split()
)


class StatementReader(AlterationReader):
    """Reads one statement after another."""

    def statement(self):
        """The next statement, up to its end or semicolon (which is not passed).

        Returns:
          One of the dataclasses here or in `sqlite_definitions`.

        Raises:
          MySQLError: it is none.
        """
        self.out.clear()
        found = self._statement()
        if self.token.kind is not Kind.END and self.word != ";":
            raise self.fail()
        return found

    def _statement(self):
        word = self.word
        if word in ("SELECT", "WITH", "("):
            return self._query_statement()
        reader = getattr(self, f"_read_{word.lower()}", None) if word else None
        if reader is not None and word.isalpha():
            return reader()
        if word in _IDLE:
            return self._idle()
        if word in _DENIED:
            raise MySQLError(
                1227,
                "Access denied; you need (at least one of) the SUPER privilege(s) for "
                "this operation",
            )
        raise self.fail()

    def _query_statement(self):
        self.query()
        if self.word == "INTO":
            raise MySQLError(
                1227,
                "Access denied; you need (at least one of) the FILE privilege(s) for "
                "this operation",
            )
        return Select(self._written())

    def _written(self) -> str:
        text = " ".join(self.out)
        self.out.clear()
        return text

    def _idle(self):
        word = self.word
        words = []
        while self.token.kind is not Kind.END and self.word != ";":
            words.append(self.step().value.upper())
        if words[0] == "SET" and "AUTOCOMMIT" in words and words[-1] in ("1", "ON"):
            word = "AUTOCOMMIT"
        return Idle(word)

    def _read_use(self):
        self.step()
        return Idle("USE", self.name())

    # ---- changes

    def _read_insert(self):
        replace = self.step().text.upper() == "REPLACE"
        ignore = False
        while self.word in ("LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE"):
            ignore |= self.step().text.upper() == "IGNORE"
        self.skip("INTO")
        table = self.names()
        columns, rows, query = None, None, None
        if self.word == "(" and not self._query_ahead():
            columns = self._column_list()
        if self.word in ("VALUES", "VALUE"):
            self.step()
            rows = self._rows()
        elif self.skip("SET"):
            pairs = self._assignments()
            columns = tuple(name[-1] for name, _ in pairs)
            rows = (tuple(value for _, value in pairs),)
        elif self.word in ("SELECT", "WITH", "("):
            query = self.captured(self.query)
        else:
            raise self.fail()
        if self.skip("AS"):
            self.name()
        updates = ()
        if self.skip("ON"):
            self.must_skip("DUPLICATE", "KEY", "UPDATE")
            updates = tuple((name[-1], value) for name, value in self._assignments())
        return Insert(table, columns, rows, query, replace, ignore, updates)

    _read_replace = _read_insert

    def _column_list(self) -> tuple[str, ...]:
        self.must_skip("(")
        columns = []
        while self.word != ")":
            columns.append(self.names()[-1])
            if not self.skip(","):
                break
        self.must_skip(")")
        return tuple(columns)

    def _rows(self) -> tuple[tuple[str, ...], ...]:
        rows = []
        while True:
            self.skip("ROW")
            self.must_skip("(")
            values = []
            while self.word != ")":
                values.append(self.captured(self.expression))
                if not self.skip(","):
                    break
            self.must_skip(")")
            rows.append(tuple(values))
            if not self.skip(","):
                return tuple(rows)

    def _assignments(self) -> tuple[tuple[Name, str], ...]:
        pairs = []
        while True:
            name = self.names(most=3)
            if not self.skip("="):
                self.must_skip(":=")
            pairs.append((name, self.captured(self.expression)))
            if not self.skip(","):
                return tuple(pairs)

    def _read_update(self):
        self.step()
        ignore = False
        while self.word in ("LOW_PRIORITY", "IGNORE"):
            ignore |= self.step().text.upper() == "IGNORE"
        source = self.captured(self.table_references)
        self.must_skip("SET")
        assignments = self._assignments()
        return Update(source, assignments, self._tail(), ignore)

    def _tail(self) -> str:
        if self.take("WHERE"):
            self.expression()
        self.order_by()
        if self.skip("LIMIT"):
            self.out.append(f"LIMIT {self._digits()}")
        return self._written()

    def _read_delete(self):
        self.step()
        while self.word in ("LOW_PRIORITY", "IGNORE", "QUICK"):
            self.step()
        if not self.skip("FROM"):
            targets = self._targets()
            self.must_skip("FROM")
            source = self.captured(self.table_references)
            return Delete(targets, source, self._tail())
        if self._targets_ahead():
            targets = self._targets()
            self.must_skip("USING")
            source = self.captured(self.table_references)
            return Delete(targets, source, self._tail())
        start = self.position
        name = self.names()
        self._enter(start)

        def single() -> None:
            self.table_name()
            self.alias(strings=False)

        alias = self.captured(single)
        return Delete((name[-1],), alias, self._tail())

    def _targets(self) -> tuple[str, ...]:
        names = [self._target()]
        while self.skip(","):
            names.append(self._target())
        return tuple(names)

    def _target(self) -> str:
        name = self.names()[-1]
        self.skip(".", "*")
        return name

    def _targets_ahead(self) -> bool:
        """Whether this is `DELETE FROM a, b USING ...`."""
        position, found = self.position, False
        if self.at_name():
            self.step()
            while self.word in (".", ",", "*") or self.at_name():
                self.step()
            found = self.word == "USING"
        self._enter(position)
        return found

    # ---- questions about tables

    def _read_explain(self):
        self.step()
        self.skip("EXTENDED")
        if self.skip("FORMAT", "="):
            self.step()
        self.skip("ANALYZE")
        if self.word in ("SELECT", "WITH", "(", "INSERT", "UPDATE", "DELETE"):
            self._statement()
            return Show("EXPLAIN")
        return self._described()

    def _described(self):
        table = self.names()
        like = None
        if self.at_name() or self.token.kind is Kind.STRING:
            like = self.step().value
        return Show("COLUMNS", table, like)

    def _read_describe(self):
        return self._read_explain()

    _read_desc = _read_describe

    def _read_show(self):
        self.step()
        extended = self.skip("EXTENDED")
        full = self.skip("FULL")
        self.skip("SESSION") or self.skip("GLOBAL")
        what = self.step().text.upper()
        table: Name = ()
        if what == "CREATE":
            what = f"CREATE {self.step().text.upper()}"
            return Show(what, self.names())
        if what in ("COLUMNS", "FIELDS", "INDEX", "INDEXES", "KEYS"):
            what = {"FIELDS": "COLUMNS"}.get(what, what)
            what = "INDEX" if what in ("INDEXES", "KEYS") else what
            if not (self.skip("FROM") or self.skip("IN")):
                raise self.fail()
            table = self.names()
        elif what in ("TABLE",):
            self.must_skip("STATUS")
            what = "TABLE STATUS"
        elif what == "CHARACTER":
            self.must_skip("SET")
        elif what not in (
            "TABLES", "DATABASES", "SCHEMAS", "VARIABLES", "STATUS", "WARNINGS",
            "ERRORS", "ENGINES", "GRANTS", "PROCESSLIST", "TRIGGERS", "COLLATION",
            "PRIVILEGES", "PLUGINS", "EVENTS", "COUNT",
        ):  # fmt: skip
            self._enter(self.position - 1)
            raise self.fail()
        if self.skip("FROM") or self.skip("IN"):
            table = (self.name(), *table[-1:])
        like = None
        if self.skip("LIKE"):
            if self.token.kind is not Kind.STRING:
                raise self.fail()
            like = self.step().value
        elif self.take("WHERE"):
            self.expression()
        if what in ("COLUMNS", "TABLES") and (full or extended):
            what = f"FULL {what}"
        while self.token.kind is not Kind.END and self.word != ";":
            self.step()
        return Show(what, table, like)


def reader(sql: str, tokens: list[Token], flavour: Flavour) -> StatementReader:
    """What reads the statements of `sql`, whose tokens these are."""
    return StatementReader(sql, tokens, flavour)
