"""What runs the SQL of an episode: one database per problem, made and dropped."""

import dataclasses
from typing import Protocol

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True)
class Table:
    """The table of one problem.

    Attributes:
      name: of the table, as the question gives it; may have any characters.
      columns: their names; every column is of type TEXT.
      rows: as many cells as columns each, in the order in which they are inserted.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclasses.dataclass(frozen=True)
class Feedback:
    """What came of one statement.

    Attributes:
      text: `str()` of the list of row tuples as MySQL's connector gives them, or the
        error's text; whole, not yet cut to what a model is shown.
      failed: whether it is an error's text.
    """

    text: str
    failed: bool


class Database(Protocol):
    """The database of one problem."""

    async def execute(self, sql: str) -> str:
        """Runs a model's statement in a session of its own, and commits.

        Args:
          sql: one statement; of several only the first one's result is read.

        Returns:
          `Feedback.text`, as `[('Tiree', '30')]`, `[]` or `1064 (42000): ...`.

        Raises:
          SandboxError: the database itself failed, which says nothing of the statement.
        """
        ...

    async def state(self) -> str:
        """The hash of the table's content over its original columns.

        Returns:
          `[('<32 hex digits>',)]`, or the error's text where the table or a column is
          gone.

        Raises:
          SandboxError: the database itself failed.
        """
        ...

    async def close(self) -> None:
        """Drops the database; a second call does nothing."""
        ...


class Backend(Protocol):
    """Makes databases.

    Attributes:
      name: "sqlite" or "mysql".
    """

    name: str

    async def open(self, table: Table) -> Database:
        """A new database that holds the table and nothing else.

        Raises:
          SandboxError: it cannot be made.
        """
        ...

    async def aclose(self) -> None:
        """Gives back what is held; a second call does nothing."""
        ...
