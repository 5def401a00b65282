"""Pairs of small tables: things, and what happened to them.

The second table names rows of the first, some several times and some never. Its columns
are the name, a text and a number.
"""

# ruff: noqa: E501 (the tables read best as a table)

import dataclasses
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cycleqd_jax.tasks.pocket.db_schemas import SCHEMAS, Schema
from cycleqd_jax.tasks.pocket.db_tables import Row, draw_rows, mutants
from cycleqd_jax.tasks.pocket.db_templates import draw_fields

_NUM_EVENTS = 11
_SWAPS = (  # further parts of a statement, and mistakes in their place
    (" NOT IN ", " IN "),
    (" IN ", " NOT IN "),
    ("LEFT JOIN", "JOIN"),
    ("COUNT(DISTINCT", "COUNT("),
    ("COUNT(*)", "SUM(1 + 1)"),
    (" * ", " - "),
)
_PARTS = (  # patterns of parts that a mistake leaves out
    r" WHERE [^()]*?(?= GROUP| ORDER|;|\))",
    r" WHERE \w+ (NOT )?IN \([^()]*\)",
    r" AND .*?(?= GROUP| ORDER|;|\))",
    r" ORDER BY .*?(?= LIMIT|;)",
    r" GROUP BY \w+",
)


@dataclasses.dataclass(frozen=True)
class Events:
    """The second table of a pair.

    Attributes:
      table: its name.
      columns: name of a row of the first table, text, number.
      texts: what the text column may hold.
      range: smallest and largest number.
    """

    table: str
    columns: tuple[str, str, str]
    texts: tuple[str, ...]
    range: tuple[int, int]


def _events(columns: str, texts: str, *numbers: int) -> Events:
    table, *names = columns.split()
    low, high = numbers
    return Events(table, tuple(names), tuple(texts.split()), (low, high))


_BUYERS = "Amy Bob Carl Dora Emil"
_PLACES = "Berlin Madrid Vienna Athens Boston"

# fmt: off
EVENTS = {  # first table -> second table
    "pets": _events("visits pet vet cost", "Roy Ann Tom Sue Max", 10, 90),
    "books": _events("loans book reader days", _BUYERS, 1, 40),
    "cars": _events("rentals car driver miles", _BUYERS, 10, 99),
    "cities": _events("trips city traveller nights", _BUYERS, 1, 30),
    "players": _events("matches player place points", _PLACES, 1, 40),
    "songs": _events("charts song country rank", "Spain France Poland Norway Chile", 1, 60),
    "staff": _events("tours person town days", _PLACES, 1, 40),
    "films": _events("shows film cinema seats", "Rex Lux Plaza Star Roxy", 20, 99),
    "products": _events("orders product buyer amount", _BUYERS, 1, 50),
    "students": _events("exams student subject points", "logic latin chess drama", 10, 90),
    "hotels": _events("stays hotel guest nights", _BUYERS, 1, 30),
    "plants": _events("sales plant shop amount", "Flora Gaia Eden Bloom", 1, 60),
    "meals": _events("orders meal guest amount", _BUYERS, 1, 30),
    "teams": _events("games team place goals", _PLACES, 1, 30),
    "rooms": _events("bookings room guest hours", _BUYERS, 1, 40),
    "games": _events("rounds game player minutes", _BUYERS, 5, 90),
}
# fmt: on


def draw_pair(rng: random.Random) -> tuple[Schema, Events, dict[str, Any]]:
    """A random pair of tables, and columns and constants that fit them.

    Beside the fields of one table: `u` is the second table, `r`, `s` and `w` are its
    columns, `p` is one of its texts, `j` a number inside the range of `w`, `big` one
    for sums of `w`, and `h` is 2 or 3.
    """
    schema = rng.choice(SCHEMAS)
    events = EVENTS[schema.table]
    r, s, w = events.columns
    low, high = events.range
    quarter = (high - low) // 4
    j = rng.randint(low + quarter, high - quarter)
    more = {"u": events.table, "r": r, "s": s, "w": w, "p": rng.choice(events.texts)}
    more |= {"j": j, "big": j + rng.randint(2, high), "h": rng.randint(2, 3)}
    return schema, events, draw_fields(schema, rng) | more


def draw_databases(
    schema: Schema, events: Events, fields: Mapping[str, Any], rng: random.Random
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Rows of both tables; some meet the constants."""
    rows = draw_rows(schema, fields, rng)
    labels = rng.sample([row[0] for row in rows], 6)
    labels += rng.choices(labels[:4], k=_NUM_EVENTS - len(labels))
    texts = [fields["p"]] * 4
    texts += rng.choices(events.texts, k=_NUM_EVENTS - len(texts))
    wanted = [fields["j"] - 1, fields["j"], fields["j"] + 1]
    low, high = events.range
    pool = [n for n in range(low, high + 1) if n not in wanted]
    numbers = [*wanted, *rng.sample(pool, _NUM_EVENTS - len(wanted))]
    for cells in (labels, texts, numbers):
        rng.shuffle(cells)
    return rows, tuple(zip(labels, texts, numbers, strict=True))


def pair_mutants(
    statement: str, schema: Schema, events: Events, fields: Mapping[str, Any]
) -> Iterator[str]:
    """Statements with one mistake."""
    yield from mutants(statement, schema)
    for old, new in _SWAPS:
        if old in statement:
            yield statement.replace(old, new, 1)
    for part in _PARTS:
        if (shorter := re.sub(part, "", statement, count=1)) != statement:
            yield shorter
    columns = (fields["n"], fields["w"], fields["g"], fields["s"])
    for old, new in ((0, 1), (1, 0), (2, 3), (3, 2)):
        other = re.sub(rf"\b{columns[old]}\b", columns[new], statement)
        if other != statement:
            yield other
