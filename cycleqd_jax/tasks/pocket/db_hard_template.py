"""A family of SQL demands over a pair of tables.

In a template, `{t}`, `{l}`, `{g}`, `{n}` and `{m}` are the first table, its label,
group and integers; `{u}`, `{r}`, `{s}` and `{w}` the second table, its reference to a
label, text and integer. `{o}`, `{i}`, `{f}` and `{e}` are pairs of a wording and its
SQL. `{edge}` and `{rim}` are limits of what `{f}` makes of `{w}` and of `{n}`.
"""

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.tasks.pocket.db_hard_tables import (
    draw_databases,
    draw_pair,
    pair_mutants,
)
from cycleqd_jax.tasks.pocket.db_tables import telling_databases
from cycleqd_jax.tasks.pocket.generator import Draft

_COMPARE = (("above", ">"), ("below", "<"), ("at least", ">="), ("at most", "<="))
_TOGETHER = (
    ("total", "SUM"),
    ("average", "AVG"),
    ("largest", "MAX"),
    ("lowest", "MIN"),
)
_ENDS = (("lowest", ""), ("highest", " DESC"))


@dataclasses.dataclass(frozen=True)
class PairTemplate:
    """One family of SQL demands.

    Attributes:
      id: unique.
      demands: wordings, separated by " | ".
      statement: a right SQL statement.
      ordered: whether the demand asks for an order of the rows.
      held_out: whether `train` leaves it out.
    """

    id: str
    demands: str
    statement: str
    ordered: bool = False
    held_out: bool = False

    def draw(self, rng: random.Random) -> Draft:
        """One random problem of the family."""
        schema, events, fields = draw_pair(rng)
        fields["o"], fields["i"] = rng.choice(_COMPARE), rng.choice(_COMPARE)
        fields["f"], fields["e"] = rng.choice(_TOGETHER), rng.choice(_ENDS)
        # A sum is compared with a larger number than a mean, a maximum or a minimum.
        total = fields["f"][1] == "SUM"
        fields["edge"] = fields["big"] if total else fields["j"]
        fields["rim"] = fields["k"] + (fields["top"] if total else 0)
        kind = "query" if self.statement.startswith("SELECT") else "statement"
        demand = rng.choice(self.demands.split(" | ")).format(**fields)
        columns = {schema.table: schema.columns, events.table: events.columns}
        tables = ", ".join(f"{t}({', '.join(names)})" for t, names in columns.items())
        prompt = f"Tables {tables}. Write a SQL {kind}: {demand}."
        answer = self.statement.format(**fields)

        def make_data(data_rng: random.Random) -> Mapping[str, Any]:
            databases, expected = telling_databases(
                columns,
                answer,
                lambda: draw_databases(schema, events, fields, data_rng),
                pair_mutants(answer, schema, events, fields),
                ordered=self.ordered,
            )
            return {
                "columns": columns,
                "databases": databases,
                "expected": expected,
                "ordered": self.ordered,
            }

        return Draft(prompt, answer, make_data)
