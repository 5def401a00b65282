"""`information_schema`, SHOW and DESCRIBE, from the catalog."""

import dataclasses

from cycleqd_jax.tasks.dbbench.sqlite_catalog import Catalog, ColumnInfo
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError, unknown_column
from cycleqd_jax.tasks.dbbench.sqlite_scope import Column
from cycleqd_jax.tasks.dbbench.sqlite_types import INT, TEXT, Value

_SCHEMATA = ("CATALOG_NAME", "SCHEMA_NAME", "DEFAULT_CHARACTER_SET_NAME")
_TABLES = ("TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME", "TABLE_TYPE", "ENGINE")
_COLUMNS = (
    "TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME", "COLUMN_NAME", "ORDINAL_POSITION",
    "COLUMN_DEFAULT", "IS_NULLABLE", "DATA_TYPE", "CHARACTER_MAXIMUM_LENGTH",
    "COLUMN_TYPE", "COLUMN_KEY", "EXTRA", "COLUMN_COMMENT",
)  # fmt: skip
_NUMBERS = frozenset(("ORDINAL_POSITION", "CHARACTER_MAXIMUM_LENGTH"))
_OTHERS = ("information_schema",)


@dataclasses.dataclass
class Table:
    """A table made of constants. Attributes: as of a compiled query."""

    sql: str
    columns: list[Column]


def information_table(catalog: Catalog, name: str, flavour: Flavour) -> Table:
    """One of the tables of `information_schema`.

    Raises:
      MySQLError: there is none of this name (1109).
    """
    which = name.upper()
    schema = catalog.database
    if which == "SCHEMATA":
        names = (*_OTHERS, schema)
        return _table(_SCHEMATA, [("def", n, "utf8mb4") for n in names])
    if which == "TABLES":
        rows = [("def", schema, n, "BASE TABLE", "InnoDB") for n in catalog.tables]
        rows += [("def", schema, n, "VIEW", None) for n in catalog.views]
        return _table(_TABLES, rows)
    if which == "COLUMNS":
        rows = []
        for table_name, table in catalog.tables.items():
            for number, column in enumerate(table.columns, 1):
                rows.append(
                    ("def", schema, table_name, column.name, number,
                     column.shown_default,
                     "YES" if column.nullable else "NO", _base(column.declared),
                     65535 if column.declared == "text" else None, column.declared,
                     column.key, _extra(column), "")
                )  # fmt: skip
        return _table(_COLUMNS, rows)
    if which in ("STATISTICS", "KEY_COLUMN_USAGE", "TABLE_CONSTRAINTS", "VIEWS"):
        return _table(("TABLE_SCHEMA", "TABLE_NAME", "COLUMN_NAME"), [])
    raise MySQLError(1109, f"Unknown table '{name}' in information_schema")


def _table(names, rows) -> Table:
    kinds = [INT if name in _NUMBERS else TEXT for name in names]
    columns = [
        Column(name, Value(f"k{number}", kind))
        for number, (name, kind) in enumerate(zip(names, kinds, strict=True), 1)
    ]
    selects = [
        "SELECT "
        + ", ".join(f"{_quoted(cell)} AS k{n}" for n, cell in enumerate(row, 1))
        for row in rows
    ]
    empty = ", ".join(f"NULL AS k{n}" for n in range(1, len(names) + 1))
    return Table(" UNION ALL ".join(selects) or f"SELECT {empty} WHERE 0", columns)


def _quoted(cell) -> str:
    if cell is None:
        return "NULL"
    if isinstance(cell, int):
        return str(cell)
    return "'" + cell.replace("\0", "").replace("'", "''") + "'"


def _base(declared: str) -> str:
    return declared.partition("(")[0].partition(" ")[0]


def _extra(column: ColumnInfo) -> str:
    return "auto_increment" if column.auto_increment else ""


def show(catalog: Catalog, what: str, table: tuple, like, flavour: Flavour) -> list:
    """The rows of SHOW, DESCRIBE or EXPLAIN.

    Args:
      catalog: what there is.
      what: which, like "COLUMNS"; see `sqlite_statements.Show`.
      table: name of the table, or ().
      like: whether a name fits, a function.
      flavour: whose answer.

    Raises:
      MySQLError: there is no such table (1146).
    """
    if what in ("TABLES", "FULL TABLES"):
        kinds = [(n, "BASE TABLE") for n in catalog.tables]
        kinds += [(n, "VIEW") for n in catalog.views]
        rows = sorted(row for row in kinds if like(row[0]))
        return rows if what.startswith("FULL") else [(name,) for name, _ in rows]
    if what in ("COLUMNS", "FULL COLUMNS"):
        info = catalog.table(table)
        return [_described(c, what) for c in info.columns if like(c.name)]
    if what in ("DATABASES", "SCHEMAS"):
        return [(n,) for n in sorted((*_OTHERS, catalog.database)) if like(n)]
    if what == "CREATE TABLE":
        return [(catalog.local(table), _create(catalog, table, flavour))]
    if what == "INDEX":
        return _indexes(catalog, table)
    if what == "EXPLAIN":
        first = next(iter(catalog.tables), None)
        plan = (1, "SIMPLE", first, *([None] if flavour is Flavour.MYSQL8 else []))
        rest = (100.0, None) if flavour is Flavour.MYSQL8 else ("",)
        return [(*plan, "ALL", None, None, None, None, 1, *rest)]
    if what == "CREATE DATABASE":
        return [(catalog.database, f"CREATE DATABASE `{catalog.database}`")]
    return []


def _described(column: ColumnInfo, what: str) -> tuple:
    nullable = "YES" if column.nullable else "NO"
    row = (column.name, column.declared, nullable, column.key, column.shown_default)
    if what == "COLUMNS":
        return (*row, _extra(column))
    collation = "utf8mb4_0900_ai_ci" if _base(column.declared) == "text" else None
    rights = "select,insert,update,references"
    return (*row[:2], collation, *row[2:], _extra(column), rights, "")


def _indexes(catalog: Catalog, table: tuple) -> list[tuple]:
    info = catalog.table(table)
    rows = []
    for names in info.unique:
        for number, name in enumerate(names, 1):
            column = info.find(name)
            key = "PRIMARY" if column and column.key == "PRI" else names[0]
            rows.append((catalog.local(table), 0, key, number, name, "A"))
    return rows


def _create(catalog: Catalog, table: tuple, flavour: Flavour) -> str:
    info = catalog.table(table)
    lines = []
    for column in info.columns:
        line = f"  `{column.name.replace('`', '``')}` {column.declared}"
        if not column.nullable:
            line += " NOT NULL"
        elif column.declared != "text" or flavour is Flavour.MARIADB:
            line += " DEFAULT NULL"
        if column.auto_increment:
            line += " AUTO_INCREMENT"
        lines.append(line)
    name = catalog.local(table).replace("`", "``")
    collation = "utf8mb4_0900_ai_ci"
    if flavour is Flavour.MARIADB:
        collation = "utf8mb4_general_ci"
    body = ",\n".join(lines)
    return (
        f"CREATE TABLE `{name}` (\n{body}\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 "
        f"COLLATE={collation}"
    )


def unknown_in(name: str, statement: str, flavour: Flavour) -> MySQLError:
    """The error of a column that INSERT INTO or SET (`statement`) names."""
    clause = statement if flavour is Flavour.MARIADB else "field list"
    return unknown_column(name, clause, flavour)
