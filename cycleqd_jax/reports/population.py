"""Every individual of a run, finished or in progress, and its places in the archives.

The search records of each child what every archive decided, so the archives as they
were after any child can be made again without the search.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.qd.archives import Status
from cycleqd_jax.qd.cells import (
    Range,
    behaviour_bins,
    fixed_ranges,
    relative_ranges,
    retention_range,
)
from cycleqd_jax.reports.candidates import Child, read_children
from cycleqd_jax.reports.run_data import Scores
from cycleqd_jax.runs import reading
from cycleqd_jax.runs.names import BASE, expert_name
from cycleqd_jax.runs.opened import OpenedRun


class Placement(NamedTuple):
    """An individual takes a cell of an archive.

    Attributes:
      generation: of the child; 0 for experts.
      archive: the task, 0-based.
      bins: bin of every other task, in task order, then of retention where it is a
        behaviour.
      individual: its name.
    """

    generation: int
    archive: int
    bins: tuple[int, ...]
    individual: str


class Grid(NamedTuple):
    """The cells of all archives.

    Attributes:
      bins: per behaviour.
      ranges: of every task's score, in task order.
      retention: its range; None where it is no behaviour.
    """

    bins: int
    ranges: tuple[Range, ...]
    retention: Range | None


@dataclasses.dataclass(frozen=True)
class Population:
    """All individuals of a run.

    Attributes:
      opened: the run.
      children: in order of generation; none before the first batch is done.
      scores: per-problem scores of experts and children by name, and of the other
        models that were compared; under all names of an individual.
      aliases: name of a compared model -> the individual that it is.
      grid: None for a search without an archive per task.
      placements: in the order in which they happened.
    """

    opened: OpenedRun
    children: tuple[Child, ...]
    scores: Scores
    aliases: Mapping[str, str]
    grid: Grid | None
    placements: tuple[Placement, ...]

    @property
    def experts(self) -> list[str]:
        """Names of the experts as individuals."""
        return [expert_name(expert) for expert in self.opened.experts]

    @property
    def names(self) -> list[str]:
        """Names of experts and children, in order of their ids."""
        return [*self.experts, *(child.name for child in self.children)]

    @property
    def others(self) -> list[str]:
        """Names of the models with results that are no individuals: base, merges."""
        facts = self.opened.facts
        listed = [model.name for model in facts.models] if facts else [BASE]
        known = {*self.names, *self.aliases}
        return [n for n in listed if n not in known and n in self.scores]

    def elites(self) -> dict[tuple[int, tuple[int, ...]], str]:
        """The individual in each occupied cell, by archive and bins, at the end."""
        return {(p.archive, p.bins): p.individual for p in self.placements}


def read_population(opened: OpenedRun) -> Population:
    """Reads the individuals of a run.

    Raises:
      BadInputError: the experts have no results yet, or a file is damaged.
    """
    found = reading.read_scores(opened.path)
    children: tuple[Child, ...] = ()
    if opened.facts or any((opened.path / "metrics").glob("*.parquet")):
        children = read_children(opened.path, opened.tasks)
    names = {*map(expert_name, opened.experts), *(child.name for child in children)}
    aliases = _aliases(opened, names)
    scores = _by_individual(opened, found, aliases)
    grid = _grid(opened, scores, children)
    return Population(
        opened=opened,
        children=children,
        scores=scores,
        aliases=aliases,
        grid=grid,
        placements=()
        if grid is None
        else tuple(_replay(opened, scores, children, grid)),
    )


def cells_so_far(opened: OpenedRun) -> dict[str, str]:
    """The cells of a run in progress, in the form of `OpenedRun.cells`.

    They are those of the newest checkpoint, which holds the genomes of all its elites.

    Raises:
      BadInputError: as for `read_population`, or there is no checkpoint yet.
    """
    last = opened.bank.next_id - len(opened.experts)  # before newer metrics are read
    population, cells = read_population(opened), {}
    for place in population.placements:
        if place.generation <= last:
            bins = ",".join(map(str, place.bins))
            cells[f"{opened.tasks[place.archive]}/{bins}"] = place.individual
    return cells


def _aliases(opened: OpenedRun, names: set[str]) -> dict[str, str]:
    """The compared models that are an expert or a child under another name."""
    if opened.facts is None:
        return {}
    scored_as = {m.name: m.scored_as for m in opened.facts.models}
    return {n: s for n, s in scored_as.items() if n != s and s in names}


def _by_individual(
    opened: OpenedRun, found: Scores, aliases: Mapping[str, str]
) -> Scores:
    """Scores by name; an individual also has what it scored under its other names."""
    scored_as = (
        {m.name: m.scored_as for m in opened.facts.models} if opened.facts else {}
    )
    scores = dict(found)
    for model, source in scored_as.items():
        scores[model] = {**found.get(source, {}), **found.get(model, {})}
    for model, individual in aliases.items():
        scores[individual] = {**scores[model], **scores.get(individual, {})}
    return scores


def _grid(opened: OpenedRun, scores: Scores, children: Sequence[Child]) -> Grid | None:
    """The cells that the search used."""
    facts, config = opened.facts, opened.config
    if facts is not None:
        found = facts.search
        if "bins" not in found or (children and not children[0].statuses):
            return None
        ranges = tuple(tuple(found["ranges"][task]) for task in opened.tasks)
        kept = tuple(found["retention"]) if found.get("retention") else None
        return Grid(found["bins"], ranges, kept)
    if config.search != "cycleqd":
        return None
    if config.qd.cell_range == "relative":
        rows = [_means(opened, scores, name) for name in _experts(opened)]
        ranges = relative_ranges(np.asarray(rows))
    else:
        given = [config.qd.cell_range[entry] for entry in config.tasks]
        ranges = fixed_ranges(given, len(given))
    kept = None
    if config.retention.descriptor:
        kept = retention_range(opened.bank.retention[: len(opened.experts)].tolist())
    return Grid(config.qd.bins, ranges, kept)


def _experts(opened: OpenedRun) -> list[str]:
    return [expert_name(expert) for expert in opened.experts]


def _means(opened: OpenedRun, scores: Scores, name: str) -> list[float]:
    """Mean scores on `optimise`, summed as the evaluator sums them.

    Raises:
      BadInputError: it was not evaluated yet.
    """
    own = scores.get(name, {}).get("optimise", {})
    if not all(own.get(task) for task in opened.tasks):
        raise BadInputError(
            f"{opened.path}: {name} was not evaluated yet; wait until the experts are."
        )
    values = [list(own[task].values()) for task in opened.tasks]
    return [sum(row) / len(row) for row in values]


def _replay(
    opened: OpenedRun, scores: Scores, children: Sequence[Child], grid: Grid
) -> list[Placement]:
    """All that archives accepted: first of the experts, then of the children."""
    placements = _expert_placements(opened, scores, grid)
    for child in children:
        took = [k for k, t in enumerate(opened.tasks) if _took(child.statuses.get(t))]
        row = [child.scores[task] for task in opened.tasks]
        placements += [
            Placement(child.generation, k, place, child.name)
            for k in took
            if (place := _place(grid, row, child.retention, k)) is not None
        ]
    return placements


def _took(status: str | None) -> bool:
    return status in (Status.NEW, Status.IMPROVED)


def _place(
    grid: Grid, scores: Sequence[float], retention: float | None, archive: int
) -> tuple[int, ...] | None:
    row, ranges = [*scores], [*grid.ranges]
    if grid.retention is not None:
        if retention is None:
            return None
        row.append(retention)
        ranges.append(grid.retention)
    return behaviour_bins(row, ranges, grid.bins, archive)


def _expert_placements(
    opened: OpenedRun, scores: Scores, grid: Grid
) -> list[Placement]:
    """The experts as they were offered: in order, the better one keeps a cell.

    Their decisions are not recorded. Archives compare float32 qualities, and where
    these are equal smooth scores, which only the bank has.
    """
    placements: list[Placement] = []
    held: dict[tuple[int, tuple[int, ...]], tuple[np.float32, int]] = {}
    for index, name in enumerate(_experts(opened)):
        row = _means(opened, scores, name)
        kept = opened.bank.retention[index] if grid.retention is not None else None
        for archive in range(len(opened.tasks)):
            place = _place(grid, row, kept, archive)
            quality = np.float32(row[archive])
            old = held.get((archive, place))
            if old is None or quality > old[0]:
                better = True
            elif quality == old[0] and opened.config.fitness.smooth:
                smooth = opened.bank.smooth[:, archive]
                better = bool(np.float32(smooth[index]) > np.float32(smooth[old[1]]))
            else:
                better = False
            if better:
                held[archive, place] = (quality, index)
                placements.append(Placement(0, archive, place, name))
    return placements
