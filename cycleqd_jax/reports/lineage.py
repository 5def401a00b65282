"""The lineage of the result: its ancestors back to the experts."""

import dataclasses
import math
from collections.abc import Mapping

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports.candidates import Child
from cycleqd_jax.reports.origins import starts
from cycleqd_jax.reports.run_data import RunData
from cycleqd_jax.runs.names import expert_name


@dataclasses.dataclass(frozen=True)
class Lineage:
    """A graph of ancestors, drawn from the experts on the left to the result.

    Attributes:
      columns: names by how many crosses lie between them and the experts; experts
        first, the result alone in the last one.
      edges: (parent, child) pairs of names that are both in `columns`.
      left_out: ancestors beyond those shown.
    """

    columns: tuple[tuple[str, ...], ...]
    edges: tuple[tuple[str, str], ...]
    left_out: int


def parents_of(data: RunData) -> dict[str, tuple[str, ...]]:
    """The parents of every child and of the result; equal ones once, experts none.

    A start of the archives comes from all experts.
    """
    parents = {
        child.name: tuple(dict.fromkeys(child.parents)) for child in data.children
    }
    seeds = starts(data.config, data.children)
    parents |= dict.fromkeys(seeds, tuple(map(expert_name, data.experts)))
    return parents | {data.facts.result: data.facts.parents(data.facts.result)}


def make_lineage(data: RunData, *, limit: int = 60) -> Lineage:
    """The ancestors nearest to the result, breadth first, at most `limit`.

    Experts are always shown.
    """
    parents, result = parents_of(data), data.facts.result
    order, seen = [result], {result}
    for name in order:  # grows while it is read
        fresh = [parent for parent in parents.get(name, ()) if parent not in seen]
        order.extend(fresh)
        seen.update(fresh)
    children = [name for name in order if name in parents]
    shown = set(children[: limit + 1])
    experts = [expert_name(expert) for expert in data.experts]
    depth = dict.fromkeys(experts, 0)
    generations = {child.name: child.generation for child in data.children}
    ranked = sorted(shown - {result}, key=lambda name: generations[name])
    for name in [*ranked, result]:
        depth[name] = 1 + max((depth.get(p, 0) for p in parents[name]), default=0)
    columns = [
        tuple(name for name in depth if depth[name] == level)
        for level in range(depth[result] + 1)
    ]
    edges = [
        (parent, name)
        for name in [*ranked, result]
        for parent in parents[name]
        if parent in depth
    ]
    return Lineage(tuple(columns), tuple(edges), len(children) - len(shown))


def expert_shares(data: RunData, individual: str) -> dict[str, float | None]:
    """The share of each expert in an individual by crossover; by expert, sums to 1.

    These are the genome's scales: they do not mutate. A child has the mean of its
    parents' shares, weighted as it was crossed; None where it has no parents, or a
    user-defined crossover that reports no weights.

    Raises:
      BadInputError: if an ancestor is neither an expert nor a recorded child.
    """
    shares: dict[str, dict[str, float | None]] = {
        expert_name(expert): {other: float(other == expert) for other in data.experts}
        for expert in data.experts
    }
    by_name = {child.name: child for child in data.children}
    for child in data.children:  # parents come before their children
        if not child.parents:
            shares[child.name] = dict.fromkeys(data.experts)
        elif all(parent in shares for parent in child.parents):
            shares[child.name] = _mix(child, shares)
    if individual not in shares:
        known = "was not recorded" if individual not in by_name else "has lost parents"
        raise BadInputError(f"metrics: {individual} {known}; expected its ancestry.")
    return shares[individual]


def _mix(
    child: Child, shares: Mapping[str, Mapping[str, float | None]]
) -> dict[str, float | None]:
    (first, second), (w1, w2) = child.parents, child.weights

    def mixed(one: float | None, two: float | None) -> float | None:
        if one is None or two is None or math.isnan(w1 + w2):
            return None
        return (w1 * one + w2 * two) / (w1 + w2)

    return {
        expert: mixed(share, shares[second][expert])
        for expert, share in shares[first].items()
    }
