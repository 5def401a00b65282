"""The desk's notes: who waits for a seat, who has which row, what is to be compiled."""

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cycleqd_jax.merging.individuals import Individual


@dataclasses.dataclass(eq=False)
class Ticket:
    """A reply that waits for its seat; `seat` receives its row of the population."""

    key: str
    individual: Individual
    seat: asyncio.Future[int]


@dataclasses.dataclass
class Row:
    """A row of the population: whose it is, how many replies use it, since when."""

    key: str | None = None
    users: int = 0
    last_used: int = 0


class Ahead(NamedTuple):
    """The programs that are to be compiled ahead, and an individual to do it with.

    Attributes:
      key: names the individual.
      individual: a genome.
      progress: is told of each program.
      programs: name and call of each that is left.
    """

    key: str
    individual: Individual
    progress: Callable[[str], None]
    programs: Iterator[tuple[str, Callable[[], object]]]
