"""Families of demands for a program in one of two dialects, `_dialect`.

A family is one step, or two steps one after the other. Every family is said differently
in the two dialects, so that a right program of one is mostly wrong in the other. What a
right program makes of a list is computed here, by the steps' own functions and not by
the interpreter. The answer's process never sees it.
"""

# ruff: noqa: E501 (the steps read best as a table)

import dataclasses
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cycleqd_jax.tasks.pocket import _dialect
from cycleqd_jax.tasks.pocket.generator import Draft

_NUM_LISTS = 4
_ORDINALS = ("1st", "2nd", "3rd", *(f"{n}th" for n in range(4, 12)))
_MAX_DRAWS = 60

Numbers = list[int]


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a program.

    Attributes:
      demands: wordings, separated by " | ".
      said: the step in the dialects a and b; `{p}` and `{q}` are positions from 0,
        `{p1}` and `{q1}` from 1, other names are numbers.
      does: makes the list from a list and the numbers.
      choices: about how many different numbers it is said with.
    """

    demands: str
    said: tuple[str, str]
    does: Callable[[Numbers, Mapping[str, Any]], Numbers]
    choices: int


Parts = Sequence[tuple[Step, Mapping[str, Any]]]

# fmt: off
STEPS = {
    "first": Step("keep the first {q1} numbers | take only the first {q1} numbers",
        ("cut 0 {q1}", "cut 1 {q1}"), lambda s, c: s[: c["q1"]], 8),
    "middle": Step("keep the {pth} to the {qth} number | take only the {pth} to the {qth} number",
        ("cut {p} {q1}", "cut {p1} {q1}"), lambda s, c: s[c["p"] : c["q1"]], 18),
    "rest": Step("drop the first {p1} numbers | leave out the first {p1} numbers",
        ("from {p1}", "from {p2}"), lambda s, c: s[c["p1"] :], 6),
    "without": Step("drop the {pth} number | leave out the {pth} number",
        ("drop {p}", "drop {p1}"), lambda s, c: s[: c["p"]] + s[c["p1"] :], 6),
    "put": Step("set the {pth} number to {v} | make the {pth} number {v}",
        ("put {p} {v}", "put {v} {p1}"), lambda s, c: [*s[: c["p"]], c["v"], *s[c["p1"] :]], 200),
    "swap": Step("turn each {x} into {y} | change every {x} to {y}",
        ("swap {x} {y}", "swap {y} {x}"), lambda s, c: [c["y"] if n == c["x"] else n for n in s], 300),
    "keep": Step("keep numbers from {low} to {high} | take only numbers from {low} to {high}",
        ("keep {low} {high}", "keep {high} {low}"), lambda s, c: [n for n in s if c["low"] <= n <= c["high"]], 70),
    "up": Step("sort with the smallest first | order from small to large",
        ("sort", "rsort"), lambda s, c: sorted(s), 1),
    "down": Step("sort with the largest first | order from large to small",
        ("rsort", "sort"), lambda s, c: sorted(s)[::-1], 1),
    "add": Step("add {k} to each number | make each number {k} larger",
        ("add {k}",) * 2, lambda s, c: [n + c["k"] for n in s], 18),
    "times": Step("multiply each number by {k} | make each number {k} times as large",
        ("times {k}",) * 2, lambda s, c: [n * c["k"] for n in s], 18),
    "flip": Step("reverse the list | turn the list around",
        ("flip",) * 2, lambda s, c: s[::-1], 1),
}
# fmt: on
_SINGLE = ("put", "swap", "keep")
_CUTS = {"first", "middle", "rest", "without"}
_SAME = {
    "add",
    "times",
    "flip",
}  # are said alike, and mostly their order is all the same
_FEW = 40  # a family with fewer different programs does not fill its splits
_PAIRS = tuple(
    (one, two)
    for one, two in itertools.permutations(STEPS, 2)
    if STEPS[one].choices * STEPS[two].choices >= _FEW
    and not {one, two} <= _CUTS
    and not {one, two} <= _SAME
    and two not in ("up", "down")
)


@dataclasses.dataclass(frozen=True)
class DialectTemplate:
    """One family of programs.

    Attributes:
      id: unique.
      steps: names of one or two steps, in the order in which they are done.
      dialect: "a" or "b".
      held_out: whether `train` leaves it out.
    """

    id: str
    steps: tuple[str, ...]
    dialect: str
    held_out: bool

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        while True:
            fields = [_numbers(rng) for _ in self.steps]
            parts = list(zip((STEPS[n] for n in self.steps), fields, strict=True))
            said = [s.said["ab".index(self.dialect)].format(**c) for s, c in parts]
            # In dialect b the last step is done first.
            answer = " | ".join(said if self.dialect == "a" else said[::-1])
            sure = self._list(parts, answer, rng)
            if sure is not None:
                break
        demands = [rng.choice(s.demands.split(" | ")).format(**c) for s, c in parts]
        prompt = f"Write a list program in dialect {self.dialect.upper()}: "
        prompt += f"{', then '.join(demands)}."

        def make_data(data_rng: random.Random) -> Mapping[str, Any]:
            drawn = (self._list(parts, answer, data_rng) for _ in range(_NUM_LISTS))
            lists = [sure if one is None else one for one in drawn]
            expected = [_done(parts, one) for one in lists]
            return {"dialect": self.dialect, "lists": lists, "expected": expected}

        return Draft(prompt, answer, make_data)

    def _list(self, parts: Parts, answer: str, rng: random.Random) -> Numbers | None:
        """A list that the program changes and that has its positions; or None."""
        for _ in range(_MAX_DRAWS):
            numbers = _random_list([fields for _, fields in parts], rng)
            expected = _done(parts, numbers)
            if expected in ([], numbers):
                continue
            try:
                _dialect.run(answer, numbers, self.dialect)
            except ValueError:
                continue
            return numbers
        return None


def _done(parts: Parts, numbers: Numbers) -> Numbers:
    for step, fields in parts:
        numbers = step.does(numbers, fields)
    return numbers


def _numbers(rng: random.Random) -> dict[str, Any]:
    p = rng.randint(1, 6)
    q = p + rng.randint(1, 3)
    x, y = rng.sample(range(2, 20), 2)
    low = rng.randint(2, 12)
    return {
        "p": p, "p1": p + 1, "p2": p + 2, "q1": q + 1,
        "pth": _ORDINALS[p], "qth": _ORDINALS[q],
        "x": x, "y": y, "v": rng.randint(20, 60), "k": rng.randint(2, 19),
        "low": low, "high": low + rng.randint(3, 9),
    }  # fmt: skip


def _random_list(fields: Sequence[Mapping[str, int]], rng: random.Random) -> Numbers:
    """Eleven to thirteen numbers, among them the constants of the steps."""
    wanted = [c[name] for c in fields for name in ("x", "y", "low", "high")]
    near = [wanted[2] - 1, wanted[3] + 1]
    numbers = rng.sample(wanted, min(len(wanted), 5)) + near
    numbers += [rng.randint(2, 20) for _ in range(rng.randint(11, 13) - len(numbers))]
    rng.shuffle(numbers)
    return numbers


def templates(dialect: str) -> tuple[DialectTemplate, ...]:
    """All families of one dialect; both have the same ids, and the same held out."""
    chosen = [*((name,) for name in _SINGLE), *_PAIRS]
    return tuple(
        DialectTemplate("_then_".join(steps), steps, dialect, i % 3 == 2)
        for i, steps in enumerate(chosen)
    )
