"""What runs the SQL of an episode: one database per problem, made and dropped."""

import dataclasses
from typing import Protocol

Cell = str | int | float | None
# What the reference's connector says to several statements at once.
OUT_OF_SYNC = "Commands out of sync; you can't run this command now"


@dataclasses.dataclass(frozen=True)
class Table:
    """The table of one problem.

    Attributes:
      name: of the table, as the question gives it; may have any characters.
      columns: their names; every column is of type TEXT.
      rows: as many cells as columns each, in the order in which they are inserted as
        texts, `str()` of what is no text.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def can_exist(self) -> bool:
        """False where MySQL refuses the table; the database is empty then.

        So it is where two columns have one name, whatever their case, or one has none.
        """
        names = {column.lower() for column in self.columns}
        return len(names) == len(self.columns) and "" not in names


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

        Several statements, or a call of a procedure that returns rows, leave results
        behind that the reference's connector does not read: its commit fails with the
        text `OUT_OF_SYNC` and what was not committed implicitly is rolled back. An
        error in the first of them is that error's text as usual.

        Args:
          sql: as the model wrote it, stripped; nothing at all gives `[]`.

        Returns:
          `Feedback.text`, as `[('Tiree', '30')]`, `[]` or `1064 (42000): ...`; of a
          very long one at least the first 65536 characters.

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
