"""The table of a problem, and results of statements on it."""

import dataclasses

Cell = str | int | float | None
# What the reference's connector says when several statements were sent at once.
OUT_OF_SYNC = "Commands out of sync; you can't run this command now"


@dataclasses.dataclass(frozen=True)
class Table:
    """The table of one problem.

    Attributes:
      name: as the question gives it; may hold any character.
      columns: their names; every column has the type TEXT.
      rows: one cell per column each, inserted in this order as `str(cell)`.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclasses.dataclass(frozen=True)
class Feedback:
    """The result of one statement.

    Attributes:
      text: `str()` of the list of row tuples as the reference's connector gives them,
        like `[('Tiree', '30')]`, or an error like `1064 (42000): ...`; of a long
        result at least the first 65,536 characters.
      failed: True where `text` is an error.
      exhausted: True where the server ran out of disk space or memory.
    """

    text: str
    failed: bool
    exhausted: bool = False
