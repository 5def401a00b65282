"""Reads the children of a search and the elites of its archives from a run folder."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from cycleqd_jax.runs import reading
from cycleqd_jax.runs.facts import RunFacts

_PROGRESS = ("best/", "coverage/", "qd_score/")  # kinds of columns of the metrics
_STATUS = "status/"


@dataclasses.dataclass(frozen=True)
class Elite:
    """One occupied cell of an archive.

    Attributes:
      archive: its task.
      bins: bin of every other task, in task order, then of retention where it is a
        behaviour.
      individual: name of the elite, like "child/17".
      quality: its score on the archive's task.
    """

    archive: str
    bins: tuple[int, ...]
    individual: str
    quality: float


@dataclasses.dataclass(frozen=True)
class Child:
    """One evaluated candidate, and how far the search was after it.

    Attributes:
      generation: counts from 1.
      name: like "child/17".
      active_task: the task whose archive it was bred from; None without archives.
      parents: names of both, or ().
      weights: raw crossover weights of the parents, or ().
      scores: on `optimise`, by task.
      progress: what the search measured, like "best/<task>" or "coverage/<task>".
      complete: whether the scores are means over all problems.
      statuses: what each archive decided on it, by task: "new", "improved" or
        "rejected"; empty without archives of tasks.
      retention: of plain text, in [0, 1]; None where it was not measured.
    """

    generation: int
    name: str
    active_task: str | None
    parents: tuple[str, ...]
    weights: tuple[float, ...]
    scores: Mapping[str, float]
    progress: Mapping[str, float]
    complete: bool = True
    statuses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retention: float | None = None


def read_children(run: pathlib.Path, tasks: Sequence[str]) -> tuple[Child, ...]:
    """All children, by generation.

    Raises:
      BadInputError: there are none yet, or a part is damaged.
    """
    plain = ["generation", "individual", "active_task", "parent_1", "parent_2"]
    plain += ["weight_1", "weight_2"]
    columns = plain + [f"score/{task}" for task in tasks]
    children = []
    further = (*_PROGRESS, _STATUS, "complete", "retention")
    for row in reading.read_rows(reading.parts(run, "metrics"), columns, further):
        parents = (row["parent_1"], row["parent_2"])
        has_parents = None not in parents
        children.append(
            Child(
                generation=row["generation"],
                name=row["individual"],
                active_task=row["active_task"],
                parents=parents if has_parents else (),
                weights=(row["weight_1"], row["weight_2"]) if has_parents else (),
                scores={task: row[f"score/{task}"] for task in tasks},
                progress={n: v for n, v in row.items() if n.startswith(_PROGRESS)},
                complete=row.get("complete", True),
                statuses={
                    name.removeprefix(_STATUS): status
                    for name, status in row.items()
                    if name.startswith(_STATUS)
                },
                retention=row.get("retention"),
            )
        )
    return tuple(sorted(children, key=lambda child: child.generation))


def read_elites(run: pathlib.Path, facts: RunFacts) -> tuple[Elite, ...]:
    """All elites, in the file's order; none of a search without archives."""
    if "bins" not in facts.search:
        return ()
    columns = ["archive", "bins", "individual", "quality"]
    rows = reading.read_rows([run / "archives.parquet"], columns)
    return tuple(
        Elite(row["archive"], tuple(row["bins"]), row["individual"], row["quality"])
        for row in rows
    )
