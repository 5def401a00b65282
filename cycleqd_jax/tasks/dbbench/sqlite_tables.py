"""Running CREATE, ALTER, DROP, TRUNCATE and RENAME."""

import dataclasses

from cycleqd_jax.tasks.dbbench.sqlite_catalog import (
    ColumnInfo,
    TableInfo,
    ViewInfo,
)
from cycleqd_jax.tasks.dbbench.sqlite_changes import Session
from cycleqd_jax.tasks.dbbench.sqlite_definitions import (
    Alter,
    ColumnDefinition,
    CreateTable,
    CreateView,
    Drop,
)
from cycleqd_jax.tasks.dbbench.sqlite_errors import (
    Flavour,
    MySQLError,
    unknown_column,
)
from cycleqd_jax.tasks.dbbench.sqlite_parse import parse_query
from cycleqd_jax.tasks.dbbench.sqlite_storing import as_text, stored
from cycleqd_jax.tasks.dbbench.sqlite_types import Kind, Type

_INTEGERS = {"TINYINT": 4, "SMALLINT": 6, "MEDIUMINT": 9, "INT": 11, "BIGINT": 20}
_SAME = {"INTEGER": "INT", "BOOL": "TINYINT", "BOOLEAN": "TINYINT", "SERIAL": "BIGINT"}
_SAME |= {"DEC": "DECIMAL", "NUMERIC": "DECIMAL", "FIXED": "DECIMAL", "REAL": "DOUBLE"}
_SAME |= {"NVARCHAR": "VARCHAR", "NCHAR": "CHAR"}
_BLOBS = frozenset(
    ("BINARY", "VARBINARY", "TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB")
)
_LENGTHS = {"TINYTEXT": 255, "MEDIUMTEXT": 2**24 - 1, "LONGTEXT": 2**31}
_DATES = {"DATE": Kind.DATE, "DATETIME": Kind.DATETIME, "TIMESTAMP": Kind.DATETIME}
_NAMES = {
    Kind.INT: "bigint",
    Kind.DECIMAL: "decimal(65,{scale})",
    Kind.DOUBLE: "double",
    Kind.FLOAT: "float",
    Kind.DATE: "date",
    Kind.DATETIME: "datetime",
    Kind.TIME: "time",
    Kind.TEXT: "text",
    Kind.JSON: "json",
    Kind.BINARY: "longblob",
    Kind.NULL: "binary(0)",
}


def _info(session: Session, definition: ColumnDefinition) -> ColumnInfo:
    """The catalog's entry of a defined column."""
    name = _SAME.get(definition.type, definition.type)
    sizes = definition.sizes
    shown = name.lower() + (f"({','.join(map(str, sizes))})" if sizes else "")
    kind, scale, length = Kind.TEXT, 0, 0
    if name in _INTEGERS or name == "BIT":
        kind = Kind.INT
        shown = name.lower()
        if session.flavour is Flavour.MARIADB and name in _INTEGERS:
            shown = f"{shown}({sizes[0] if sizes else _INTEGERS[name]})"
        if definition.type in ("BOOL", "BOOLEAN"):
            shown = "tinyint(1)"
    elif name == "DECIMAL":
        kind, scale = Kind.DECIMAL, sizes[1] if len(sizes) > 1 else 0
        shown = f"decimal({sizes[0] if sizes else 10},{scale})"
    elif name in ("FLOAT", "DOUBLE"):
        kind = Kind.FLOAT if name == "FLOAT" else Kind.DOUBLE
    elif name in _DATES:
        kind, scale = _DATES[name], sizes[0] if sizes else 0
    elif name == "TIME":
        kind = Kind.TIME
    elif name == "YEAR":
        kind = Kind.INT
        shown = "year" if session.flavour is Flavour.MYSQL8 else "year(4)"
    elif name in _BLOBS:
        kind = Kind.BINARY
    elif name == "JSON":
        kind = Kind.JSON
    elif name in ("CHAR", "VARCHAR"):
        length = sizes[0] if sizes else 1
        shown = f"{name.lower()}({length})"
    elif name in _LENGTHS:
        length = _LENGTHS[name]
    elif name in ("ENUM", "SET"):
        shown = name.lower()
    if definition.unsigned:
        shown += " unsigned"
    return ColumnInfo(
        name=definition.name,
        id=session.catalog.new_id("c"),
        kind=int(kind),
        scale=scale,
        declared=shown,
        length=length,
        nullable=definition.nullable,
        default=definition.default,
        shown_default=_shown_default(session, definition.default),
        auto_increment=definition.auto_increment,
        key={"PRIMARY": "PRI", "UNIQUE": "UNI"}.get(definition.key, ""),
    )


def _shown_default(session: Session, default: str | None) -> str | None:
    """A default as DESCRIBE shows it."""
    if default is None:
        return None
    if "F_CURRENT_TIMESTAMP" in default or "F_NOW" in default:
        return "CURRENT_TIMESTAMP"
    query = session.queries().query(parse_query(f"SELECT {default} AS `c`"))
    value = session.fetch(query.sql)[0][0]
    return None if value is None else as_text(value, query.columns[0].value.type)


def create_table(session: Session, statement: CreateTable) -> None:
    """Runs CREATE TABLE.

    Raises:
      MySQLError: it exists (1050), a column is there twice (1060), ...
    """
    catalog = session.catalog
    name = catalog.local(statement.table)
    if name in catalog.tables or name in catalog.views:
        if statement.if_not_exists:
            return
        raise MySQLError(1050, f"Table '{name}' already exists")
    if statement.like:
        table = _copied(session, catalog.table(statement.like))
        table.temporary = statement.temporary
        _make(session, name, table)
        return
    columns = [_info(session, definition) for definition in statement.columns]
    rows, types = [], []
    if statement.query is not None:
        query = session.queries().query(parse_query(statement.query))
        types = [column.value.type for column in query.columns]
        for column in query.columns:
            columns = [c for c in columns if c.name.lower() != column.name.lower()]
            columns.append(_of_type(session, column.name, column.value.type))
        rows = session.fetch(query.sql)
    table = TableInfo(catalog.new_id("t"), columns, statement.temporary)
    _check_columns(columns)
    for column in columns:
        if column.key:
            table.unique.append([column.name])
    for kind, names in statement.keys:
        _add_key(session, table, kind, names)
    _make(session, name, table)
    offset = len(columns) - len(types)
    for number, row in enumerate(rows, 1):
        cells = [
            stored(column, value, kind, number, False)
            for column, value, kind in zip(columns[offset:], row, types, strict=True)
        ]
        names = ", ".join(column.id for column in columns[offset:])
        marks = ", ".join("?" * len(cells))
        session.connection.execute(
            f"INSERT INTO {table.id} ({names}) VALUES ({marks})", cells
        )


def _of_type(session: Session, name: str, kind: Type) -> ColumnInfo:
    declared = _NAMES[kind.kind].format(scale=kind.scale)
    stored_kind = Kind.TEXT if kind.kind is Kind.NULL else kind.kind
    return ColumnInfo(
        name, session.catalog.new_id("c"), int(stored_kind), kind.scale, declared
    )


def _copied(session: Session, table: TableInfo) -> TableInfo:
    columns = [
        dataclasses.replace(column, id=session.catalog.new_id("c"))
        for column in table.columns
    ]
    return TableInfo(
        session.catalog.new_id("t"), columns, unique=[list(u) for u in table.unique]
    )


def _make(session: Session, name: str, table: TableInfo) -> None:
    names = ", ".join(column.id for column in table.columns)
    session.connection.execute(f"CREATE TABLE {table.id} ({names})")
    session.catalog.tables[name] = table


def _check_columns(columns: list[ColumnInfo]) -> None:
    seen = set()
    if not columns:
        raise MySQLError(1113, "A table must have at least 1 column")
    for column in columns:
        if column.name.lower() in seen:
            raise MySQLError(1060, f"Duplicate column name '{column.name}'")
        seen.add(column.name.lower())


def _add_key(session: Session, table: TableInfo, kind: str, names) -> None:
    for name in names:
        column = table.find(name)
        if column is None:
            raise MySQLError(1072, f"Key column '{name}' doesn't exist in table")
        if kind and column.declared == "text":
            raise MySQLError(
                1170,
                f"BLOB/TEXT column '{name}' used in key specification without a key "
                "length",
            )
        if kind == "PRIMARY":
            column.key, column.nullable = "PRI", False
        elif kind and len(names) == 1:
            column.key = column.key or "UNI"
    if kind and names:
        table.unique.insert(0 if kind == "PRIMARY" else len(table.unique), list(names))


def create_view(session: Session, statement: CreateView) -> None:
    """Runs CREATE VIEW.

    Raises:
      MySQLError: it exists (1050), or its query is wrong.
    """
    catalog = session.catalog
    name = catalog.local(statement.table)
    if name in catalog.tables or (name in catalog.views and not statement.replace):
        raise MySQLError(1050, f"Table '{name}' already exists")
    session.queries().query(parse_query(statement.query))
    catalog.views[name] = ViewInfo(statement.query, statement.columns)


def drop(session: Session, statement: Drop) -> None:
    """Runs DROP and TRUNCATE.

    Raises:
      MySQLError: there is no such table (1051), or it may not be dropped.
    """
    catalog = session.catalog
    if statement.what == "DATABASE":
        name = statement.tables[0][-1]
        if name != catalog.database or catalog.dropped:
            if statement.if_exists:
                return
            raise MySQLError(
                1008, f"Can't drop database '{name}'; database doesn't exist"
            )
        for table in catalog.tables.values():
            session.connection.execute(f"DROP TABLE {table.id}")
        catalog.tables.clear()
        catalog.views.clear()
        catalog.dropped = True
        return
    if statement.what == "TRUNCATE":
        table = catalog.table(statement.tables[0])
        session.connection.execute(f"DELETE FROM {table.id}")
        return
    kind = catalog.views if statement.what == "VIEW" else catalog.tables
    missing = []
    for parts in statement.tables:
        name = catalog.local(parts)
        if name not in kind:
            missing.append(f"{catalog.database}.{name}")
            continue
        dropped = kind.pop(name)
        if isinstance(dropped, TableInfo):
            session.connection.execute(f"DROP TABLE {dropped.id}")
    if missing and not statement.if_exists:
        raise MySQLError(1051, f"Unknown table '{','.join(missing)}'")


def alter(session: Session, statement: Alter) -> None:
    """Runs ALTER TABLE and RENAME TABLE.

    Raises:
      MySQLError: a column is not there (1054, 1091) or is there already (1060), ...
    """
    catalog = session.catalog
    table = catalog.table(statement.table)
    name = catalog.local(statement.table)
    for action, *arguments in statement.actions:
        if action == "rename":
            new = arguments[0]
            if new in catalog.tables or new in catalog.views:
                raise MySQLError(1050, f"Table '{new}' already exists")
            catalog.tables = {
                new if key == name else key: value
                for key, value in catalog.tables.items()
            }
            name = new
        elif action == "key":
            _add_key(session, table, *arguments)
        elif action != "nothing":
            _ALTERATIONS[action](session, table, name, *arguments)


def _add(session, table: TableInfo, name: str, definition, place) -> None:
    if table.find(definition.name) is not None:
        raise MySQLError(1060, f"Duplicate column name '{definition.name}'")
    column = _info(session, definition)
    _widen(session, table, column)
    _place(session, table, column, place)
    if column.key:
        table.unique.append([column.name])
    value = None
    if column.default is not None:
        query = session.queries().query(parse_query(f"SELECT {column.default} AS `c`"))
        cell = session.fetch(query.sql)[0][0]
        value = stored(column, cell, query.columns[0].value.type, 1, False)
    elif not column.nullable:
        value = stored(
            column, "" if column.kind == Kind.TEXT else "0", Type(Kind.TEXT), 1, True
        )
    if column.auto_increment:
        session.connection.execute(f"UPDATE {table.id} SET {column.id} = rowid")
    elif value is not None:
        session.connection.execute(f"UPDATE {table.id} SET {column.id} = ?", (value,))


def _widen(session, table: TableInfo, column: ColumnInfo) -> None:
    """Gives a table a further column, by a copy.

    SQLite's own ALTER TABLE needs functions that a worker does not allow.
    """
    old, table.id = table.id, session.catalog.new_id("t")
    names = ", ".join(info.id for info in table.columns)
    run = session.connection.execute
    run(f"CREATE TABLE {table.id} ({names}, {column.id})")
    run(f"INSERT INTO {table.id} ({names}) SELECT {names} FROM {old} ORDER BY rowid")
    run(f"DROP TABLE {old}")


def _place(session, table: TableInfo, column: ColumnInfo, place) -> None:
    if place is None:
        table.columns.insert(0, column)
    elif place == "":
        table.columns.append(column)
    else:
        before = _found(session, table, place)
        table.columns.insert(table.columns.index(before) + 1, column)


def _found(session, table: TableInfo, name: str) -> ColumnInfo:
    column = table.find(name)
    if column is None:
        own = next(n for n, t in session.catalog.tables.items() if t is table)
        raise unknown_column(name, own, session.flavour)
    return column


def _drop_column(session, table: TableInfo, name: str, column_name: str) -> None:
    column = table.find(column_name)
    if column is None:
        raise MySQLError(
            1091,
            f"Can't DROP '{column_name}'; check that column/key exists",
        )
    if len(table.columns) == 1:
        raise MySQLError(
            1090,
            "You can't delete all columns with ALTER TABLE; use DROP TABLE instead",
        )
    table.columns.remove(column)
    table.unique = [names for names in table.unique if column.name not in names]


def _change(session, table: TableInfo, name: str, old: str, definition, place) -> None:
    before = _found(session, table, old)
    if definition.name.lower() != old.lower() and table.find(definition.name):
        raise MySQLError(1060, f"Duplicate column name '{definition.name}'")
    column = _info(session, definition)
    column.id = before.id
    column.key = column.key or before.key
    cells = session.fetch(f"SELECT rowid, {before.id} FROM {table.id}")
    new = [
        (stored(column, cell, before.type, number, False), rowid)
        for number, (rowid, cell) in enumerate(cells, 1)
    ]
    session.connection.executemany(
        f"UPDATE {table.id} SET {column.id} = ? WHERE rowid = ?", new
    )
    index = table.columns.index(before)
    table.columns[index] = column
    table.unique = [
        [column.name if n == before.name else n for n in names]
        for names in table.unique
    ]
    if place != "":
        table.columns.remove(column)
        _place(session, table, column, place)


def _rename_column(session, table: TableInfo, name: str, old: str, new: str) -> None:
    column = _found(session, table, old)
    if table.find(new) not in (None, column):
        raise MySQLError(1060, f"Duplicate column name '{new}'")
    column.name = new


_ALTERATIONS = {
    "add": _add,
    "drop": _drop_column,
    "change": _change,
    "rename_column": _rename_column,
}
