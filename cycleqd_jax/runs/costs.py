"""The cost of a run: tokens through the model, by phase, and seconds.

Every part of the results has a part of the same name in `costs/`, with a row per kind
of call: "evaluate" (prompts and replies), "smooth" (log-probabilities of right answers
beside a verdict), "texts" (of plain text), "score" and "gradient" (what a search asked
for). Tokens are those of what is on record, so a run that is killed and resumed has the
same costs as one that never was; wall times are apart, in `timing.jsonl`.

A backward pass costs about two forward passes, so `tokens` of a cost, its one number,
is the tokens forward plus twice the tokens backward.
"""

import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from cycleqd_jax.evaluation.base import Cost
from cycleqd_jax.runs import reading
from cycleqd_jax.runs.folder import RunFolder

BACKWARD = 2  # forward tokens that a backward token is worth

_COSTS = pa.schema(
    [
        ("call", pa.string()),
        ("tokens_forward", pa.int64()),
        ("tokens_backward", pa.int64()),
    ]
)
# How the names of parts begin -> phase; those that end in "-test" are "test".
_PHASES = {
    "experts": "experts",
    "trained-experts": "experts",
    "batch": "search",
    "candidates": "champions",
    "final": "champions",
    "merges": "baselines",
    "baselines": "baselines",
    "retention": "retention",
}
SET_UP, TEST = "set-up", "test"
ORDER = (
    SET_UP,
    "experts",
    "search",
    "champions",
    "baselines",
    "retention",
    "other",
    TEST,
)


class PhaseCost(NamedTuple):
    """The cost of a phase of a run.

    Attributes:
      tokens_forward: tokens that went through the model, prompts included.
      tokens_backward: tokens that gradients were computed for.
      seconds: wall time of all processes that worked on it.
    """

    tokens_forward: int = 0
    tokens_backward: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """The one number by which budgets are equal."""
        return self.tokens_forward + BACKWARD * self.tokens_backward


def phase_of(part: str) -> str:
    """The phase that a part of the results belongs to, one of `ORDER`."""
    if part.endswith("-test"):
        return TEST
    for start, phase in _PHASES.items():
        if part.startswith(f"{start}-"):
            return phase
    return "other"


def write_costs(
    folder: RunFolder, part: str, costs: Iterable[tuple[str, Cost]]
) -> None:
    """Writes the cost of a part; call it before the part itself is written.

    Args:
      folder: of the run.
      part: name of the part of the results.
      costs: kind of call and its cost, for every call.
    """
    sums: dict[str, list[int]] = {}
    for call, cost in costs:
        row = sums.setdefault(call, [0, 0])
        row[0] += cost.tokens_forward
        row[1] += cost.tokens_backward
    rows = [
        dict(zip(_COSTS.names, (call, *sums[call]), strict=True))
        for call in sorted(sums)
    ]
    folder.write_part("costs", part, pa.Table.from_pylist(rows, schema=_COSTS))


def part_costs(run: str | os.PathLike[str]) -> dict[str, PhaseCost]:
    """Part of the results -> its tokens, in order of names; seconds are 0.

    Parts "batch-<first generation>" give the cost of the search as it went on.

    Raises:
      BadInputError: a part is damaged.
    """
    found = {}
    for path in sorted((pathlib.Path(run) / "costs").glob("*.parquet")):
        rows = reading.read_rows([path], _COSTS.names)
        found[path.stem] = PhaseCost(
            sum(row["tokens_forward"] for row in rows),
            sum(row["tokens_backward"] for row in rows),
        )
    return found


def run_cost(run: str | os.PathLike[str]) -> dict[str, PhaseCost]:
    """Phase -> its cost, in the order of `ORDER`; phases without any are left out.

    A run may still be going on. The tokens of "set-up" are those of the Gram matrices
    that condition the basis.

    Args:
      run: the run folder.

    Raises:
      BadInputError: a file of it is damaged.
    """
    run = pathlib.Path(run)
    phases = {phase: [0, 0, 0.0] for phase in ORDER}
    phases[SET_UP][0] = reading.read_basis_facts(run).get("gram_tokens", 0)
    for part, cost in part_costs(run).items():
        phases[phase_of(part)][0] += cost.tokens_forward
        phases[phase_of(part)][1] += cost.tokens_backward
    for name, seconds in reading.read_seconds(run).items():
        name = "search" if name == "batch" else name
        phases[name if name in phases else "other"][2] += seconds
    return {phase: PhaseCost(*cost) for phase, cost in phases.items() if any(cost)}
