"""The share of each expert that an individual holds, by group of layers.

Of a diagonal basis, expert k's share in a group of layers is the factor by which its
singular values there give the individual's coefficients best, in least squares:

    share = <c, s_k> / <s_k, s_k>   over the directions of expert k in the group

An expert holds 1 of itself, a crossover the weighted mean of its parents, and mutation
adds what it adds.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.basis_store import open_basis
from cycleqd_jax.merging.forms import DiagonalBasis, MatrixSlot
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.runs.names import AGGREGATED, individual_name
from cycleqd_jax.runs.opened import OpenedRun

_GROUPS = 4  # at most, of layers; embedding and head are one more
_LARGEST = 2**30  # bytes of a checkpoint that a page is worth reading
_LAYER = re.compile(r"\.(\d+)\.")
_REST = "embedding, head"

# individual -> group of layers -> one share per expert
Shares = Mapping[str, Mapping[str, Sequence[float]]]


def layer_groups(layout: Sequence[MatrixSlot]) -> list[str]:
    """The group of every matrix: consecutive layers, or what lies in no layer."""
    layers = [int(f[1]) if (f := _LAYER.search(s.name)) else None for s in layout]
    known = sorted({layer for layer in layers if layer is not None})
    names = {}
    for part in np.array_split(known, min(_GROUPS, max(len(known), 1))):
        span = "layer" if len(part) == 1 else "layers"
        ends = dict.fromkeys(map(str, part[[0, -1]])) if len(part) else ()
        names |= dict.fromkeys(part.tolist(), f"{span} {' to '.join(ends)}")
    return [_REST if layer is None else names[layer] for layer in layers]


def layer_shares(
    basis: DiagonalBasis, genomes: Mapping[str, Genome]
) -> dict[str, dict[str, list[float]]]:
    """Shares of all experts in individuals.

    Args:
      basis: of the genomes; its arrays may be in the file.
      genomes: by individual, `[G]` coefficients each.

    Returns:
      Individual -> group, in order of layers -> one share per expert.
    """
    each = layer_groups(basis.layout)
    groups = sorted(set(each), key=_first_layer)
    sizes = [slot.size for slot in basis.layout]
    group_of = np.repeat([groups.index(group) for group in each], sizes)
    count = basis.num_experts
    place = group_of * count + np.asarray(basis.experts_of)
    values = np.asarray(basis.singular_values, np.float64)

    def sums(factors: np.ndarray) -> np.ndarray:
        flat = np.bincount(place, factors * values, minlength=len(groups) * count)
        return flat.reshape(len(groups), count)

    whole = sums(values)
    found = {}
    for name, genome in genomes.items():
        parts = sums(np.asarray(genome.coefficients, np.float64))
        rows = np.divide(parts, whole, out=np.zeros_like(parts), where=whole > 0)
        found[name] = {
            group: [round(float(share), 3) for share in row]
            for group, row in zip(groups, rows, strict=True)
        }
    return found


def _first_layer(group: str) -> float:
    found = re.search(r"\d+", group)
    return int(found[0]) if found else float("inf")


def read_shares(opened: OpenedRun) -> Shares:
    """Shares of the individuals whose genomes the run kept; empty where it has none.

    A basis in core form, a run without a checkpoint, and one whose checkpoint is over a
    gigabyte have none.
    """
    try:
        basis = open_basis(opened.path / "basis.safetensors")
        if not isinstance(basis, DiagonalBasis) or _size(opened.path) > _LARGEST:
            return {}
        kept = opened.bank.genomes
    except BadInputError:
        return {}
    genomes = {
        individual_name(i, opened.experts): genome
        for i, genome in sorted(kept.items())
        if isinstance(genome, Genome)
    }
    found = layer_shares(basis, genomes)
    return found | _aggregated(opened, found)


def _aggregated(opened: OpenedRun, shares: Shares) -> Shares:
    """Shares of the aggregated model: the weighted sum of its champions'."""
    facts = opened.facts
    champions = list(facts.aggregation.values()) if facts else []
    names = [model.name for model in facts.models] if facts else []
    if AGGREGATED not in names:
        return {}
    if not all(champion.individual in shares for champion in champions):
        return {}
    weights = [champion.beta for champion in champions]
    rows = [shares[champion.individual] for champion in champions]
    merged = {
        group: np.average([row[group] for row in rows], axis=0, weights=weights)
        for group in rows[0]
    }
    return {AGGREGATED: {g: [round(float(s), 3) for s in m] for g, m in merged.items()}}


def _size(run: pathlib.Path) -> int:
    """Bytes of the largest checkpoint."""
    folders = [p for p in (run / "checkpoints").glob("*") if p.is_dir()]
    files = ([f for f in p.rglob("*") if f.is_file()] for p in folders)
    return max((sum(f.stat().st_size for f in own) for own in files), default=0)
