"""MySQL's rule that what is selected must be grouped or aggregated."""

from sqlglot import exp

from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_scope import Scope

_MODE = "this is incompatible with sql_mode=only_full_group_by"


def constants(node: exp.Select, scope: Scope) -> set[str]:
    """SQL of the columns that WHERE binds to one constant each.

    They depend on the (empty) group, so they may be selected without being grouped.
    """
    where = node.args.get("where")
    if where is None:
        return set()
    found = set()
    parts = [where.this]
    while parts:
        part = parts.pop()
        if isinstance(part, exp.And):
            parts += [part.this, part.expression]
        elif isinstance(part, exp.Paren):
            parts.append(part.this)
        elif isinstance(part, exp.EQ):
            for column, other in (
                (part.this, part.expression),
                (part.expression, part.this),
            ):
                if isinstance(column, exp.Column) and isinstance(other, exp.Literal):
                    try:
                        found.add(scope.resolve(column.name, column.table).sql)
                    except MySQLError:
                        pass  # said where it is compiled
    scope.bare.clear()
    return found


def check_grouping(scope: Scope) -> None:
    """Refuses columns that are neither grouped nor aggregated.

    Raises:
      MySQLError: 1055, or 1140 for a query without GROUP BY.
    """
    for bare in scope.bare:
        number, name = bare if isinstance(bare, tuple) else (None, bare)
        where = f"Expression #{number} of SELECT list" if number else "Expression"
        if scope.grouped:
            raise MySQLError(
                1055,
                f"{where} is not in GROUP BY clause and contains nonaggregated column "
                f"'{name}' which is not functionally dependent on columns in GROUP BY "
                f"clause; {_MODE}",
            )
        raise MySQLError(
            1140,
            f"In aggregated query without GROUP BY, {where[0].lower() + where[1:]} "
            f"contains nonaggregated column '{name}'; {_MODE}",
        )
