"""What names mean inside a query."""

import dataclasses

from cycleqd_jax.tasks.dbbench.sqlite_errors import (
    Flavour,
    MySQLError,
    clause_name,
    unknown_column,
)
from cycleqd_jax.tasks.dbbench.sqlite_types import Kind, Value


@dataclasses.dataclass
class Column:
    """A column of a table in a query.

    Attributes:
      name: as MySQL knows it.
      value: how SQLite reads it.
      hidden: whether `*` leaves it out (a USING has it already).
    """

    name: str
    value: Value
    hidden: bool = False


@dataclasses.dataclass
class Source:
    """A table in a query.

    Attributes:
      alias: the name by which columns say where they are from.
      columns: in order.
      row: SQL that numbers its rows in the order of insertion, or "".
      database: what a column's name may begin with, for whole tables.
      table: key in the catalog, for whole tables; else "".
    """

    alias: str
    columns: list[Column]
    row: str = ""
    database: str = ""
    table: str = ""

    def find(self, name: str) -> Column | None:
        """The column of this name, in whatever case."""
        lower = name.lower()
        for column in self.columns:
            if column.name.lower() == lower:
                return column
        return None


@dataclasses.dataclass
class Scope:
    """What can be named in one query, and where its compilation stands.

    Attributes:
      flavour: whose rules hold.
      database: name of the current database.
      parent: of the query around it, or None.
      sources: its tables.
      clause: what is being compiled, for errors.
      aliases: of the select list, lower case -> compiled.
      prefer_aliases: whether an alias comes before a column (ORDER BY, HAVING).
      use_aliases: whether aliases can be named at all.
      allow_aggregates: whether an aggregate may stand here.
      inside_aggregate: whether an aggregate's argument is compiled.
      aggregated: whether an aggregate was met.
      grouped: SQL of the GROUP BY expressions, or None before it is known.
      bare: columns met outside of aggregates and groups, as the server names them.
      first: whether such columns are to be taken of the group's first row.
      correlated: whether an outer query's column was used.
    """

    flavour: Flavour
    database: str
    parent: "Scope | None" = None
    sources: list[Source] = dataclasses.field(default_factory=list)
    clause: str = "field list"
    aliases: dict[str, Value] = dataclasses.field(default_factory=dict)
    prefer_aliases: bool = False
    use_aliases: bool = False
    allow_aggregates: bool = True
    inside_aggregate: bool = False
    aggregated: bool = False
    grouped: frozenset[str] | None = None
    bare: list[str] = dataclasses.field(default_factory=list)
    first: bool = False
    correlated: bool = False
    constants: set[str] = dataclasses.field(default_factory=set)

    def resolve(self, name: str, table: str = "", database: str = "") -> Value:
        """The value of a column.

        Args:
          name: of the column.
          table: what stands before it, or "".
          database: what stands before that, or "".

        Raises:
          MySQLError: there is none (1054), or several (1052).
        """
        written = ".".join(part for part in (database, table, name) if part)
        scope: Scope | None = self
        while scope is not None:
            found = scope._here(name, table, database, written)
            if found is not None:
                if scope is not self:
                    self._mark_correlated(scope)
                return found
            scope = scope.parent
        raise unknown_column(written, self.clause, self.flavour)

    def _mark_correlated(self, outer: "Scope") -> None:
        scope: Scope | None = self
        while scope is not None and scope is not outer:
            scope.correlated = True
            scope = scope.parent

    def _is_alias(self, name: str) -> bool:
        """Whether an alias comes before a column; HAVING prefers what is grouped."""
        if self.clause != "having clause" or not self.grouped:
            return self.prefer_aliases
        columns = (source.find(name) for source in self.sources)
        return not any(c is not None and c.value.sql in self.grouped for c in columns)

    def _here(self, name, table, database, written) -> Value | None:
        alias = None
        if self.use_aliases and not table:
            alias = self.aliases.get(name.lower())
            if alias is not None and self._is_alias(name):
                return alias
        found: list[tuple[Source, Column]] = []
        for source in self.sources:
            if table and source.alias != table:
                continue
            if database and source.database != database:
                continue
            column = source.find(name)
            if column is not None and not (column.hidden and not table):
                found.append((source, column))
        if len(found) > 1:
            where = clause_name(self.clause, self.flavour)
            raise MySQLError(1052, f"Column '{written}' in {where} is ambiguous")
        if not found:
            return alias
        source, column = found[0]
        return self._used(source, column)

    def _used(self, source: Source, column: Column) -> Value:
        """Notes the use of a column of ours, for the rules of grouping."""
        value = column.value
        if self.inside_aggregate or value.sql in self.constants:
            return value
        if self.grouped is not None and value.sql in self.grouped:
            if value.type.kind is Kind.TEXT and not value.type.exact:
                # Texts of a group are equal but may differ: the first row's is shown.
                return Value(f"m_first({value.sql})", value.type)
            return value
        if self.first:
            return Value(f"m_first({value.sql})", value.type)
        parts = (source.database or self.database, source.alias, column.name)
        self.bare.append(".".join(parts))
        return value
