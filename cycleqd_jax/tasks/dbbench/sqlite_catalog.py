"""What tables there are, as MySQL sees them; SQLite only knows `t1 (c1, c2, ...)`.

No name that a model can choose is ever a name in SQLite.
"""

import dataclasses
import json
from typing import Any

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError, no_such_table
from cycleqd_jax.tasks.dbbench.sqlite_types import Kind, Type


@dataclasses.dataclass
class ColumnInfo:
    """A column of a table.

    Attributes:
      name: as MySQL knows it.
      id: as SQLite knows it.
      kind, scale: of its `Type`.
      declared: the type as DESCRIBE shows it.
      length: characters that fit, or 0 for no limit.
      nullable: whether NULL may stand in it.
      default: plain form of its default, or None.
      shown_default: the default as DESCRIBE shows it, or None.
      auto_increment: whether it counts up by itself.
      key: "PRI", "UNI" or "".
    """

    name: str
    id: str
    kind: int = int(Kind.TEXT)
    scale: int = 0
    declared: str = "text"
    length: int = 0
    nullable: bool = True
    default: str | None = None
    shown_default: str | None = None
    auto_increment: bool = False
    key: str = ""

    @property
    def type(self) -> Type:
        """Its type."""
        return Type(Kind(self.kind), self.scale)


@dataclasses.dataclass
class TableInfo:
    """A table.

    Attributes:
      id: as SQLite knows it.
      columns: in order.
      temporary: whether it ends with the statement's session.
      unique: groups of names of columns that are unique together, the primary first.
    """

    id: str
    columns: list[ColumnInfo]
    temporary: bool = False
    unique: list[list[str]] = dataclasses.field(default_factory=list)

    def find(self, name: str) -> ColumnInfo | None:
        """The column of this name, in whatever case."""
        lower = name.lower()
        return next((c for c in self.columns if c.name.lower() == lower), None)


@dataclasses.dataclass
class ViewInfo:
    """A view. Attributes: query: plain form; columns: its names, or () for theirs."""

    query: str
    columns: tuple[str, ...] = ()


@dataclasses.dataclass
class Catalog:
    """All tables and views of one database.

    Attributes:
      database: its name.
      tables: by name, in the order in which they were made.
      views: by name.
      made: how many names for SQLite were given out.
      dropped: whether the database itself was dropped.
    """

    database: str
    tables: dict[str, TableInfo] = dataclasses.field(default_factory=dict)
    views: dict[str, ViewInfo] = dataclasses.field(default_factory=dict)
    made: int = 0
    dropped: bool = False

    def new_id(self, letter: str) -> str:
        """A name for SQLite that was not given out before."""
        self.made += 1
        return f"{letter}{self.made}"

    def local(self, name: tuple[str, ...]) -> str:
        """The table's own name of one that may have a database's before it.

        Raises:
          MySQLError: it is of another database (1142, 1049), or ours is gone (1046).
        """
        if len(name) > 1 and name[0] != self.database:
            raise foreign(name[0], name[-1])
        if self.dropped:
            raise MySQLError(1049, f"Unknown database '{self.database}'")
        return name[-1]

    def table(self, name: tuple[str, ...]) -> TableInfo:
        """A table.

        Raises:
          MySQLError: there is none (1146).
        """
        local = self.local(name)
        if local not in self.tables:
            raise no_such_table(self.database, local)
        return self.tables[local]

    def dumps(self) -> str:
        """All of it as text."""
        return json.dumps(self, default=vars, separators=(",", ":"))


def foreign(database: str, table: str) -> MySQLError:
    """The error of a name in another database."""
    if database.lower() in ("mysql", "performance_schema", "sys"):
        return MySQLError(
            1142,
            f"SELECT command denied to user 'dbbench'@'localhost' for table '{table}'",
        )
    return MySQLError(1049, f"Unknown database '{database}'")


def loads(text: str) -> Catalog:
    """What `Catalog.dumps` wrote."""
    data: dict[str, Any] = json.loads(text)
    tables = {}
    for name, table in data.pop("tables").items():
        columns = [ColumnInfo(**column) for column in table.pop("columns")]
        tables[name] = TableInfo(columns=columns, **table)
    views = {
        name: ViewInfo(view["query"], tuple(view["columns"]))
        for name, view in data.pop("views").items()
    }
    return Catalog(tables=tables, views=views, **data)
