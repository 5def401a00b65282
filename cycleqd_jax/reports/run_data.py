"""What a report needs of a run: read once from its folder, checked, then plain data."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports import run_files
from cycleqd_jax.tasks.registry import task_class

SPLITS = ("test", "validate", "optimise")  # in the order in which a reader wants them

# individual -> split -> task -> problem -> score in [0, 1]
Scores = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]


@dataclasses.dataclass(frozen=True)
class Elite:
    """One occupied cell of an archive.

    Attributes:
      archive: its task.
      bins: bin of every other task, in task order.
      individual: name of the elite, like "child/17".
      quality: its score on the archive's task.
    """

    archive: str
    bins: tuple[int, ...]
    individual: str
    quality: float


@dataclasses.dataclass(frozen=True)
class Child:
    """One evaluated child, and the archives after it was offered to them.

    Attributes:
      generation: counts from 1.
      name: like "child/17".
      active_task: whose archive its parents came from and whose expert mutated it.
      parents: names of both.
      weights: what they were mixed with, as recorded.
      scores: on `optimise`, by task.
      best: highest quality in each task's archive.
      coverage: share of each archive's cells that are taken, 0-1.
      qd_score: sum of the qualities in each archive.
    """

    generation: int
    name: str
    active_task: str
    parents: tuple[str, str]
    weights: tuple[float, float]
    scores: Mapping[str, float]
    best: Mapping[str, float]
    coverage: Mapping[str, float]
    qd_score: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class RunData:
    """A finished run.

    Attributes:
      config: its settings.
      state: `state.json`.
      tasks: names, in the order of the archives.
      models: the rows of the table, base first, result last.
      scores: per-problem scores of `models`.
      samples: individual, task, problem, outcome, answer, reply of the result on the
        first split of `SPLITS` it has.
      children: in order of generation.
      elites: of all archives.
      basis: `basis.json`: how alike the experts are, and what their basis keeps.
      metrics: means of further verdicts of `models`, by split, task and name.
      trained_experts: scores, like `scores`, of the experts that the basis changes,
        as they were trained.
      seconds: wall time by phase; the only thing that differs between equal runs.
    """

    config: RunConfig
    state: Mapping[str, Any]
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    scores: Scores
    samples: Sequence[Mapping[str, Any]]
    children: tuple[Child, ...]
    elites: tuple[Elite, ...]
    basis: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
    trained_experts: Scores
    seconds: Mapping[str, float]


def read_run(run_dir: str | pathlib.Path) -> RunData:
    """Reads a finished run.

    Raises:
      BadInputError: if this is no run folder, the run has not finished, or a file does
        not hold what it should; says which.
    """
    run = pathlib.Path(run_dir)
    if not (run / "config.yaml").is_file():
        raise BadInputError(f"{run}: not a run folder, it has no config.yaml.")
    config = load_config(run / "config.yaml", [], RunConfig)
    state = run_files.read_state(run)
    tasks = tuple(state["tasks"])
    experts = tuple(f"expert/{task}" for task in tasks)
    merges = ("uniform_merge", "scaled_merge", "best_of_archive", "aggregated")
    models = ("base", *experts, *merges)
    aliases = _aliases(state)
    trained = [f"trained_expert/{task}" for task in tasks]
    wanted = {*models, *trained, *sum(aliases.values(), ())}
    found = run_files.read_scores(run, wanted)
    scores = {model: _resolve(model, aliases, found) for model in models}
    _check_complete(run, tasks, scores)
    return RunData(
        config=config,
        state=state,
        tasks=tasks,
        models=models,
        scores=scores,
        samples=_samples(run, scores["aggregated"]),
        children=_children(run, tasks),
        elites=_elites(run),
        basis=run_files.read_basis_facts(run),
        metrics=_metrics(
            run, models, aliases, dict(zip(tasks, config.tasks, strict=True))
        ),
        trained_experts={n: found[n] for n in trained if n in found},
        seconds=run_files.read_seconds(run),
    )


def _aliases(state: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Row of the table -> names it may have been scored under before it was chosen."""
    factor = float(state["scaled_merge"]["factor"])
    return {
        "scaled_merge": (f"scaled_merge/{factor}", f"scaled_merge/{factor:g}"),
        "best_of_archive": (str(state["best_of_archive"]),),
    }


def _resolve(
    model: str, aliases: Mapping[str, Sequence[str]], found: Scores
) -> dict[str, Mapping[str, Mapping[str, float]]]:
    """Split -> task -> problem -> score; the row's own name goes before its aliases."""
    splits: dict[str, Mapping[str, Mapping[str, float]]] = {}
    for name in (model, *aliases.get(model, ())):
        splits = {**found.get(name, {}), **splits}
    return {split: splits[split] for split in SPLITS if split in splits}


def _metrics(
    run: pathlib.Path,
    models: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
    classes: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Of the models that have some, under the rows' names, as their tasks sum them up.

    `classes` has each task's name or import path in the config.
    """
    names = {model: (model, *aliases.get(model, ())) for model in models}
    found = run_files.read_metrics(run, {n for many in names.values() for n in many})
    ways = {task: _summary(classes[task]) for task in classes}
    resolved: dict[str, dict[str, Any]] = {}
    for model, many in names.items():
        for name in many:
            for split, tasks in found.get(name, {}).items():
                shown = {task: ways[task](means) for task, means in tasks.items()}
                resolved.setdefault(model, {}).setdefault(split, shown)
    return resolved


def _summary(name: str) -> Callable[[Mapping[str, float]], Mapping[str, float]]:
    """How a task sums its metrics up; as they are if it does not say."""
    try:
        return getattr(task_class(name), "summarise", dict)
    except BadInputError:  # a report needs no task: one's own may be elsewhere by now
        return dict


def _check_complete(run: pathlib.Path, tasks: Sequence[str], scores: Scores) -> None:
    """Every row has every task of the split that is reported first, on equal problems.

    Raises:
      BadInputError: says which is missing.
    """
    reported = "test" if "test" in scores["aggregated"] else "optimise"
    for model, splits in scores.items():
        for task in tasks:
            if not splits.get(reported, {}).get(task):
                raise run_files.unfinished(
                    run, f"results hold no score of {model} on {reported} of {task}"
                )
        for split, by_task in splits.items():
            for task, problems in by_task.items():
                others = scores["base"].get(split, {}).get(task, problems)
                if problems.keys() != others.keys():
                    raise BadInputError(
                        f"{run}: {model} was scored on other problems of {split} of "
                        f"{task} than the base model ({len(problems)} and "
                        f"{len(others)}); expected the same ones."
                    )


def _samples(
    run: pathlib.Path, scores: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    """Per task one solved and one unsolved problem of the result, with its reply."""
    split = next(split for split in SPLITS if split in scores)
    wanted = set()
    for problems in scores[split].values():
        solved = [problem for problem in sorted(problems) if problems[problem] > 0]
        failed = [problem for problem in sorted(problems) if problems[problem] == 0]
        wanted.update(solved[:1] + failed[:1])
    return run_files.read_replies(run, "aggregated", split, wanted)


def _children(run: pathlib.Path, tasks: Sequence[str]) -> tuple[Child, ...]:
    """All children, by generation."""
    plain = ["generation", "individual", "active_task", "parent_1", "parent_2"]
    plain += ["weight_1", "weight_2"]
    kinds = ("score", "best", "coverage", "qd_score")
    columns = plain + [f"{kind}/{task}" for kind in kinds for task in tasks]
    children = []
    for row in run_files.read_rows(run_files.parts(run, "metrics"), columns):
        scores, best, coverage, qd_score = (
            {task: row[f"{kind}/{task}"] for task in tasks} for kind in kinds
        )
        children.append(
            Child(
                generation=row["generation"],
                name=row["individual"],
                active_task=row["active_task"],
                parents=(row["parent_1"], row["parent_2"]),
                weights=(row["weight_1"], row["weight_2"]),
                scores=scores,
                best=best,
                coverage=coverage,
                qd_score=qd_score,
            )
        )
    return tuple(sorted(children, key=lambda child: child.generation))


def _elites(run: pathlib.Path) -> tuple[Elite, ...]:
    """All elites, in the file's order."""
    columns = ["archive", "bins", "individual", "quality"]
    rows = run_files.read_rows([run / "archives.parquet"], columns)
    return tuple(
        Elite(row["archive"], tuple(row["bins"]), row["individual"], row["quality"])
        for row in rows
    )
