"""Running INSERT, UPDATE and DELETE."""

import dataclasses
import sqlite3

from sqlglot import exp

from cycleqd_jax.tasks.dbbench.sqlite_catalog import Catalog, ColumnInfo, TableInfo
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_functions import Moment
from cycleqd_jax.tasks.dbbench.sqlite_information import unknown_in
from cycleqd_jax.tasks.dbbench.sqlite_parse import parse_query
from cycleqd_jax.tasks.dbbench.sqlite_select import Queries
from cycleqd_jax.tasks.dbbench.sqlite_sources import Sources
from cycleqd_jax.tasks.dbbench.sqlite_statements import Delete, Insert, Update
from cycleqd_jax.tasks.dbbench.sqlite_storing import stored
from cycleqd_jax.tasks.dbbench.sqlite_types import Kind, Value

MAX_ROWS = 20_000  # that one statement may change or make
_DEFAULT = "F_DEFAULT_VALUE()"


@dataclasses.dataclass
class Session:
    """What running a statement needs.

    Attributes:
      connection: to SQLite, functions and collations registered.
      catalog: what tables there are; changed in place.
      flavour: whose rules hold.
      moment: of the functions, whether they are strict.
    """

    connection: sqlite3.Connection
    catalog: Catalog
    flavour: Flavour
    moment: Moment

    def queries(self, forbidden: str = "") -> Queries:
        """A compiler of queries; `forbidden` is the table that is being changed."""
        if self.flavour is Flavour.MARIADB:
            forbidden = ""  # it copies what it reads
        return Queries(self.catalog, self.flavour, forbidden)

    def fetch(self, sql: str) -> list[tuple]:
        """All rows of a query for SQLite.

        Raises:
          MySQLError: they are more than a table here may have (1114).
        """
        rows = self.connection.execute(sql).fetchmany(MAX_ROWS + 1)
        if len(rows) > MAX_ROWS:
            raise MySQLError(1114, f"The table '{self.catalog.database}' is full")
        return rows


# ---- INSERT


def insert(session: Session, statement: Insert) -> None:
    """Runs INSERT or REPLACE.

    Raises:
      MySQLError: as a server would refuse it; nothing is changed then.
    """
    name = session.catalog.local(statement.table)
    table = session.catalog.table(statement.table)
    columns = _columns(session, table, statement.columns)
    if statement.query is not None:
        rows = _rows_of_query(session, statement.query, len(columns))
    else:
        rows = _rows_of_values(session, name, columns, statement)
    for number, row in enumerate(rows, 1):
        _insert_row(session, table, columns, row, number, statement)


def _columns(session, table: TableInfo, names) -> list[ColumnInfo]:
    if not names:
        return list(table.columns)
    found = []
    for name in names:
        column = table.find(name)
        if column is None:
            raise unknown_in(name, "INSERT INTO", session.flavour)
        if column in found:
            raise MySQLError(1110, f"Column '{name}' specified twice")
        found.append(column)
    return found


def _rows_of_query(session, plain: str, width: int) -> list[list[tuple]]:
    query = session.queries().query(parse_query(plain))
    if len(query.columns) != width:
        raise MySQLError(1136, "Column count doesn't match value count at row 1")
    types = [column.value.type for column in query.columns]
    return [list(zip(row, types, strict=True)) for row in session.fetch(query.sql)]


def _rows_of_values(session, name, columns, statement) -> list[list[tuple]]:
    for number, row in enumerate(statement.rows, 1):
        if len(row) != len(columns) and (row or statement.columns):
            raise MySQLError(
                1136, f"Column count doesn't match value count at row {number}"
            )
    queries = session.queries(name)
    rows = []
    for row in statement.rows:
        if not row:
            rows.append([None] * len(columns))
            continue
        plain = [f"({value}) AS `c`" for value in row if value.strip() != _DEFAULT]
        cells = iter(())
        if plain:
            # Not as a query, which would round what is divided.
            scope = queries.scope()
            scope.allow_aggregates = False
            if session.flavour is Flavour.MARIADB:
                scope.clause = "VALUES"
            expressions = queries.expressions(scope, {})
            tree = parse_query(f"SELECT {', '.join(plain)}")
            values = [expressions.value(node.this) for node in tree.expressions]
            made = session.fetch(f"SELECT {', '.join(v.sql for v in values)}")[0]
            cells = zip(made, (value.type for value in values), strict=True)
        rows.append(
            [None if value.strip() == _DEFAULT else next(cells) for value in row]
        )
    return rows


def _insert_row(session, table, columns, row, number, statement) -> None:
    """Stores one row; a cell is (value, type), or None for the default."""
    values = {}
    for column, cell in zip(columns, row, strict=True):
        if cell is not None:
            values[column.id] = stored(column, *cell, number, statement.ignore)
    for column in table.columns:
        if column.auto_increment and values.get(column.id) in (None, 0):
            top = session.fetch(f"SELECT MAX({column.id}) FROM {table.id}")[0][0]
            values[column.id] = (top or 0) + 1
        elif column.id not in values:
            values[column.id] = _default(session, column, statement.ignore)
    clash = _clash(session, table, values)
    if clash is not None:
        key, rowid = clash
        if statement.replace:
            session.connection.execute(f"DELETE FROM {table.id} WHERE rowid = {rowid}")
        elif statement.updates:
            tail = f"rowid = {rowid}"
            _update_duplicate(session, table, values, statement, tail)
            return
        elif statement.ignore:
            return
        else:
            raise key
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    session.connection.execute(
        f"INSERT INTO {table.id} ({names}) VALUES ({marks})", tuple(values.values())
    )


def _default(session, column: ColumnInfo, ignore: bool):
    if column.default is not None:
        query = session.queries().query(parse_query(f"SELECT {column.default} AS `c`"))
        value = session.fetch(query.sql)[0][0]
        return stored(column, value, query.columns[0].value.type, 1, ignore)
    if not column.nullable and not ignore:
        raise MySQLError(1364, f"Field '{column.name}' doesn't have a default value")
    return None


def _clash(session, table: TableInfo, values: dict):
    """(error, rowid) of the row that has the same key already, or None."""
    for names in table.unique:
        columns = [table.find(name) for name in names]
        if any(c is None or values.get(c.id) is None for c in columns):
            continue
        tests = " AND ".join(
            f"{c.id} = ?{' COLLATE m_text' if c.kind == Kind.TEXT else ''}"
            for c in columns
        )
        cells = tuple(values[c.id] for c in columns)
        found = session.connection.execute(
            f"SELECT rowid FROM {table.id} WHERE {tests}", cells
        ).fetchone()
        if found is not None:
            entry = "-".join(str(cell) for cell in cells)
            name = next(n for n, t in session.catalog.tables.items() if t is table)
            key = "PRIMARY" if columns[0].key == "PRI" else names[0]
            if session.flavour is Flavour.MYSQL8:
                key = f"{name}.{key}"
            error = MySQLError(1062, f"Duplicate entry '{entry}' for key '{key}'")
            return error, found[0]
    return None


def _update_duplicate(session, table, values, statement, where: str) -> None:
    name = next(n for n, t in session.catalog.tables.items() if t is table)
    new = {c.name.lower(): values[c.id] for c in table.columns}
    assignments = []
    for column, plain in statement.updates:
        tree = parse_query(f"SELECT {plain} AS `c`")
        for call in list(tree.find_all(exp.Anonymous)):
            if call.name == "F_VALUES":
                cell = new.get(call.expressions[0].name.lower())
                call.replace(
                    exp.Null() if cell is None else exp.Literal.string(str(cell))
                )
        assignments.append(((column,), tree.expressions[0].this))
    source = "`" + name.replace("`", "``") + "`"
    _run_update(session, source, assignments, "", where)


# ---- UPDATE and DELETE


def update(session: Session, statement: Update) -> None:
    """Runs UPDATE.

    Raises:
      MySQLError: as a server would refuse it.
    """
    assignments = [
        (name, parse_query(f"SELECT {plain} AS `c`").expressions[0].this)
        for name, plain in statement.assignments
    ]
    _run_update(session, statement.source, assignments, statement.tail, "")


def _run_update(session, source: str, assignments, tail: str, where: str) -> None:
    tree = parse_query(f"SELECT 1 AS `c` FROM {source} {tail}")
    name = tree.args["from_"].this.name
    queries = session.queries(name)
    queries.forbidden, forbidden = "", queries.forbidden
    scope = queries.scope()
    expressions = queries.expressions(scope, {})
    tables = Sources(queries, scope, expressions, {}).compile(tree)
    queries.forbidden = forbidden
    scope.allow_aggregates = False
    targets = [_target(session, scope, name) for name, _ in assignments]
    if len({source.alias for source, _ in targets}) > 1:
        raise MySQLError(1221, "Incorrect usage of UPDATE and several tables")
    into = targets[0][0]
    # MySQL assigns from left to right: what is assigned is seen by what follows.
    new = []
    for (_, column), (_, node) in zip(targets, assignments, strict=True):
        info = session.catalog.tables[into.table].find(column.name)
        if isinstance(node, exp.Anonymous) and node.name == "F_DEFAULT_VALUE":
            value = Value("NULL", info.type)
        else:
            value = expressions.value(node)
        sql = f"m_store({value.sql}, {int(value.type.kind)}, {value.type.scale}, "
        sql += f"{int(info.kind)}, {info.scale}, {info.length}, "
        sql += f"{int(info.nullable)}, {_quoted(info.name)}, {_quoted(info.declared)})"
        new.append((info, sql))
        column.value = Value(sql, info.type)
    for (_, column), (info, _) in zip(targets, new, strict=True):
        own = into.row.rpartition(".")[0]
        column.value = Value(f"{own}.{info.id}", info.type)
    scope.clause = "where clause"
    rest = _tail(tree, queries, scope, expressions, [where] if where else [])
    listed = ", ".join(sql for _, sql in new)
    table = session.catalog.tables[into.table]
    reading = f"SELECT {into.row}, {listed} FROM {tables}"
    if tree.args.get("order") is not None and session.flavour is Flavour.MARIADB:
        rows = _in_order(session, into.row, reading, f"{tables} {rest}")
    else:
        rows = session.fetch(f"{reading} {rest}")
    names = ", ".join(f"{info.id} = ?" for info, _ in new)
    done = set()
    for rowid, *cells in rows:
        if rowid is None or rowid in done:
            continue
        done.add(rowid)
        session.connection.execute(
            f"UPDATE {table.id} SET {names} WHERE rowid = ?", (*cells, rowid)
        )


def _in_order(session, row: str, reading: str, tables: str) -> list[tuple]:
    """What is read of the rows that ORDER BY picks; MariaDB is not strict there."""
    strict, session.moment.strict = session.moment.strict, False
    picked = session.fetch(f"SELECT {row} FROM {tables}")
    session.moment.strict = strict
    return [
        session.fetch(f"{reading} WHERE {row} = {number}")[0] for (number,) in picked
    ]


def _quoted(name: str) -> str:
    return "'" + name.replace("\0", "").replace("'", "''") + "'"


def _target(session, scope, name: tuple[str, ...]):
    """(source, column) that an assignment changes."""
    written = ".".join(name)
    for source in scope.sources:
        if len(name) > 1 and source.alias != name[-2]:
            continue
        column = source.find(name[-1])
        if column is not None:
            if not source.table:
                raise MySQLError(
                    1288,
                    f"The target table {source.alias} of the UPDATE is not updatable",
                )
            return source, column
    raise unknown_in(written, "SET", session.flavour)


def _tail(tree, queries, scope, expressions, conditions: list[str]) -> str:
    """WHERE, ORDER BY and LIMIT of a change."""
    if (where := tree.args.get("where")) is not None:
        conditions = [*conditions, expressions.condition(where.this)]
    sql = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    scope.clause = "order clause"
    if (order := tree.args.get("order")) is not None:
        from cycleqd_jax.tasks.dbbench.sqlite_types import collated

        terms = [
            collated(expressions.value(term.this))
            + (" DESC" if term.args.get("desc") else "")
            for term in order.expressions
        ]
        sql += f" ORDER BY {', '.join(terms)}"
    if (limit := tree.args.get("limit")) is not None:
        sql += f" LIMIT {min(int(limit.expression.this), 2**62)}"
    return sql


def delete(session: Session, statement: Delete) -> None:
    """Runs DELETE.

    Raises:
      MySQLError: as a server would refuse it.
    """
    tree = parse_query(f"SELECT 1 AS `c` FROM {statement.source} {statement.tail}")
    name = tree.args["from_"].this.name
    queries = session.queries(name)
    queries.forbidden, forbidden = "", queries.forbidden
    scope = queries.scope()
    expressions = queries.expressions(scope, {})
    tables = Sources(queries, scope, expressions, {}).compile(tree)
    queries.forbidden = forbidden
    scope.clause, scope.allow_aggregates = "where clause", False
    rest = _tail(tree, queries, scope, expressions, [])
    sources = []
    for target in statement.targets:
        found = [s for s in scope.sources if target in (s.alias, s.table) and s.table]
        if not found:
            raise MySQLError(1109, f"Unknown table '{target}' in MULTI DELETE")
        sources.append(found[0])
    listed = ", ".join(source.row for source in sources)
    rows = session.fetch(f"SELECT {listed} FROM {tables} {rest}")
    for number, source in enumerate(sources):
        table = session.catalog.tables[source.table]
        gone = {row[number] for row in rows if row[number] is not None}
        session.connection.executemany(
            f"DELETE FROM {table.id} WHERE rowid = ?", [(rowid,) for rowid in gone]
        )
