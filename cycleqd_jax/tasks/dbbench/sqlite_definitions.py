"""The grammar of CREATE, ALTER, DROP and their like; see `sqlite_grammar`."""

import dataclasses

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError, unsupported
from cycleqd_jax.tasks.dbbench.sqlite_lexer import Kind
from cycleqd_jax.tasks.dbbench.sqlite_queries import QueryReader

Name = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ColumnDefinition:
    """A column.

    Attributes:
      name: its name.
      type: of it in capitals, like "VARCHAR".
      sizes: numbers in parentheses behind the type.
      unsigned: whether it was said.
      nullable: whether NULL may stand in it.
      default: plain form of its default, or None.
      auto_increment: whether it counts up by itself.
      key: "PRIMARY", "UNIQUE" or "".
    """

    name: str
    type: str
    sizes: tuple[int, ...] = ()
    unsigned: bool = False
    nullable: bool = True
    default: str | None = None
    auto_increment: bool = False
    key: str = ""


@dataclasses.dataclass(frozen=True)
class CreateTable:
    """CREATE TABLE.

    Attributes:
      table: its name.
      columns: in order.
      keys: (kind, column names) with kind "PRIMARY" or "UNIQUE".
      if_not_exists: whether an existing one is no error.
      temporary: whether it ends with the statement's session.
      like: another table to be like, or ().
      query: plain form of the query that fills it, or None.
    """

    table: Name
    columns: tuple[ColumnDefinition, ...] = ()
    keys: tuple[tuple[str, tuple[str, ...]], ...] = ()
    if_not_exists: bool = False
    temporary: bool = False
    like: Name = ()
    query: str | None = None


@dataclasses.dataclass(frozen=True)
class CreateView:
    """CREATE VIEW: its query in plain form, checked when it is used."""

    table: Name
    columns: tuple[str, ...]
    query: str
    replace: bool


@dataclasses.dataclass(frozen=True)
class Drop:
    """DROP TABLE, VIEW or DATABASE, and TRUNCATE (`what`)."""

    what: str
    tables: tuple[Name, ...]
    if_exists: bool = False


@dataclasses.dataclass(frozen=True)
class Alter:
    """ALTER TABLE and RENAME TABLE: (action, arguments) in order.

    Actions: add(column, place), drop(name), change(old name, column, place),
    rename(new name), rename_column(old, new), key(kind, columns), nothing().
    `place` is "" for the end, None for the first, else the column before.
    """

    table: Name
    actions: tuple[tuple, ...]


_TYPES = frozenset(
    """
TINYINT SMALLINT MEDIUMINT INT INTEGER BIGINT DECIMAL DEC NUMERIC FIXED FLOAT DOUBLE
REAL BIT BOOL BOOLEAN CHAR VARCHAR NCHAR NVARCHAR TINYTEXT TEXT MEDIUMTEXT LONGTEXT
BINARY VARBINARY TINYBLOB BLOB MEDIUMBLOB LONGBLOB DATE TIME DATETIME TIMESTAMP YEAR
JSON ENUM SET SERIAL
""".split()
)


class DefinitionReader(QueryReader):
    """Adds what defines tables to the queries."""

    def names(self, most: int = 2) -> Name:
        """Passes a name of up to `most` parts; writes nothing."""
        parts = [self.name()]
        while len(parts) < most and self.skip("."):
            parts.append(self.name(after_dot=True))
        return tuple(parts)

    def _read_create(self):
        self.step()
        replace = self.skip("OR", "REPLACE")
        temporary = self.skip("TEMPORARY")
        if self.skip("TABLE"):
            return self._create_table(temporary)
        if self.skip("VIEW"):
            table = self.names()
            columns = ()
            if self.word == "(":
                columns = self._key_columns()
            self.must_skip("AS")
            return CreateView(table, columns, self.captured(self.query), replace)
        if self.skip("UNIQUE", "INDEX") or self.skip("INDEX"):
            self.name()
            self.must_skip("ON")
            table = self.names()
            self._key_columns()
            return Alter(table, ())
        if self.word in ("DATABASE", "SCHEMA", "USER", "ROLE"):
            raise MySQLError(1044, "Access denied for user to database")
        if self.word in ("TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "DEFINER"):
            raise unsupported(f"CREATE {self.word}")
        raise self.fail()

    def _create_table(self, temporary: bool) -> CreateTable:
        exists = self.skip("IF", "NOT", "EXISTS")
        table = self.names()
        same = {"if_not_exists": exists, "temporary": temporary}
        if self.skip("LIKE"):
            return CreateTable(table, like=self.names(), **same)
        if self.skip("(", "LIKE"):
            like = self.names()
            self.must_skip(")")
            return CreateTable(table, like=like, **same)
        columns, keys = [], []
        if self.word == "(" and not self._query_ahead():
            self.must_skip("(")
            while True:
                self._create_item(columns, keys)
                if not self.skip(","):
                    break
            self.must_skip(")")
        self._options()
        query = None
        self.skip("AS")
        if self.word in ("SELECT", "WITH", "("):
            query = self.captured(self.query)
        elif not columns:
            raise self.fail()
        return CreateTable(table, tuple(columns), tuple(keys), query=query, **same)

    def _create_item(self, columns: list, keys: list) -> None:
        if self.skip("CONSTRAINT") and self.at_name():
            self.name()
        key = self._key()
        if key is not None:
            keys.append(key)
        else:
            columns.append(self.column())

    def _key(self) -> tuple[str, tuple[str, ...]] | None:
        """A key or constraint of a table, or None if none comes here."""
        if self.skip("PRIMARY", "KEY"):
            return "PRIMARY", self._key_columns()
        if self.skip("UNIQUE"):
            self.skip("KEY") or self.skip("INDEX")
            if self.at_name():
                self.name()
            return "UNIQUE", self._key_columns()
        if self.word in ("KEY", "INDEX", "FULLTEXT", "SPATIAL"):
            self.step()
            self.skip("KEY") or self.skip("INDEX")
            if self.at_name():
                self.name()
            return "", self._key_columns()
        if self.skip("FOREIGN", "KEY"):
            if self.at_name():
                self.name()
            columns = self._key_columns()
            self._references()
            return "", columns
        if self.word == "CHECK":
            self._check()
            return "", ()
        return None

    def _check(self) -> None:
        self.step()
        self.must_skip("(")
        self.captured(self.expression)
        self.must_skip(")")

    def _references(self) -> None:
        self.must_skip("REFERENCES")
        self.names()
        if self.word == "(":
            self._key_columns()
        while self.skip("ON"):
            self.step()
            if not (self.skip("SET", "NULL") or self.skip("NO", "ACTION")):
                self.step()

    def _key_columns(self) -> tuple[str, ...]:
        self.must_skip("(")
        columns = []
        while True:
            columns.append(self.name())
            if self.skip("("):
                self._digits()
                self.must_skip(")")
            self.skip("ASC") or self.skip("DESC")
            if not self.skip(","):
                break
        self.must_skip(")")
        return tuple(columns)

    def _options(self) -> None:
        """Options of a table, which change nothing here."""
        while self.token.kind is Kind.WORD and self.word not in (
            "AS", "SELECT", "WITH",
        ):  # fmt: skip
            self.step()
            if self.word in ("SET", "CHARSET"):
                self.step()
            self.skip("=")
            if self.word not in ("", ";", ",") or self.token.kind is not Kind.OPERATOR:
                if self.token.kind is not Kind.END:
                    self.step()
            self.skip(",")

    def column(self) -> ColumnDefinition:
        """A column with its type and attributes."""
        name = self.name()
        if self.word not in _TYPES:
            raise self.fail()
        kind = self.step().text.upper()
        if kind == "DOUBLE":
            self.skip("PRECISION")
        if kind in ("CHAR", "NCHAR"):
            kind = "VARCHAR" if self.skip("VARYING") else kind
        sizes = []
        if self.skip("("):
            while self.word != ")":
                if kind in ("ENUM", "SET"):
                    sizes.append(len(self.step().value))
                else:
                    sizes.append(int(self._digits()))
                if not self.skip(","):
                    break
            self.must_skip(")")
        found = {"type": kind, "sizes": tuple(sizes)}
        while self._attribute(found):
            pass
        return ColumnDefinition(name, **found)

    def _attribute(self, found: dict) -> bool:
        """One attribute of a column, into `found`; False if none comes."""
        if self.skip("UNSIGNED"):
            found["unsigned"] = True
        elif self.skip("NOT", "NULL"):
            found["nullable"] = False
        elif self.skip("NULL"):
            found["nullable"] = True
        elif self.skip("DEFAULT"):
            found["default"] = self.captured(self._operand)
        elif self.skip("ON", "UPDATE"):
            self.captured(self._operand)
        elif self.skip("AUTO_INCREMENT"):
            found["auto_increment"] = True
        elif self.skip("PRIMARY", "KEY"):
            found["key"], found["nullable"] = "PRIMARY", False
        elif self.skip("UNIQUE"):
            self.skip("KEY")
            found["key"] = "UNIQUE"
        elif self.word in ("SIGNED", "ZEROFILL", "VISIBLE", "INVISIBLE"):
            self.step()
        elif self.word in ("COMMENT", "COLLATE", "CHARSET"):
            self.step()
            self.step()
        elif self.skip("CHARACTER", "SET"):
            self.step()
        elif self.word == "CHECK":
            self._check()
        elif self.word == "REFERENCES":
            self._references()
        elif self.word in ("GENERATED", "VIRTUAL", "STORED"):
            raise unsupported("generated columns")
        else:
            return False
        return True
