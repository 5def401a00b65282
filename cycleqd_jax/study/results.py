"""Reads the results of a comparison's runs: scores, cost, curves, population."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.runs import costs, reading
from cycleqd_jax.runs.names import BASE, BEST_OF_ARCHIVE, expert_name
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.runs.results import EXPERTS_PART
from cycleqd_jax.search.merges import SCALED
from cycleqd_jax.study import population
from cycleqd_jax.study.settings import (
    OWN_EXPERTS,
    AdapterMethod,
    ModelMethod,
    Study,
)
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.training.experts import COST

ADAPTER_PART = "adapter-test"
Scores = Mapping[str, Mapping[str, float]]  # task -> problem -> score

# Phases that a method needs to find its result. Those of baselines, and of `test`, are
# spent on the comparison.
_OF_METHOD = (costs.SET_UP, "experts", "search", "champions")
_OF_SCALED = "merges-"  # prefix of the parts in which its factor is chosen


class Point(NamedTuple):
    """A point of a curve, after a batch of children.

    Attributes:
      children: evaluated so far.
      tokens: through the model so far, experts included.
      held_out: the mean score on half of the `optimise` problems of the individual that
        is the best on the other half; the mean of both ways.
      best: the best mean score on all `optimise` problems.
    """

    children: int
    tokens: int
    held_out: float
    best: float


class Result(NamedTuple):
    """One run of a method, or a model without a search.

    Attributes:
      scores: of its result on `test`.
      tokens: that the method took; None where they are not known.
      seconds: wall time until the result, for information.
      curve: of the search.
      children: evaluated by the search.
      hypervolume: of all individuals on `optimise`; None without a search.
      coverage: at k, of diverse individuals and of samples of the result; None where
        they were not asked for.
      batch_seconds: wall time up to the experts' scores, and up to each batch.
      models: digest of the base model and the experts; "" where there is no run.
      made: the machine and the versions of libraries, of the run.
    """

    scores: Scores
    tokens: int | None
    seconds: float
    curve: tuple[Point, ...] = ()
    children: int = 0
    hypervolume: float | None = None
    coverage: tuple[float, float] | None = None
    batch_seconds: tuple[float, ...] = ()
    models: str = ""
    made: Mapping[str, Any] = {}


def read_result(study: Study, name: str, seed: int) -> Result:
    """The result of a method for a seed, from the folders of its runs.

    A method without a search, or whose search needs no seed, has the same result for
    every seed.

    Raises:
      BadInputError: a run is not finished or damaged.
    """
    method = study.methods[name]
    if isinstance(method, AdapterMethod):
        return _read_adapter(study.folder / name, name, method)
    if isinstance(method, ModelMethod):
        folder = run_folder(study, study.run_of(name), seed)
        result = _read_model(folder, method)
    else:
        folder = run_folder(study, name, seed)
        result = _read_run(folder, study.config.population)
    facts = files.read_sealed(folder / "run.json")
    prints = [facts["fingerprints"][key] for key in ("base model", "experts")]
    return result._replace(
        models=files.digest_of(files.json_text(prints).encode()),
        made={key: facts[key] for key in ("machine", "versions")},
    )


def run_folder(study: Study, name: str, seed: int) -> pathlib.Path:
    """The folder of the run that has a method's result for a seed."""
    return study.folder / name / f"seed-{study.seed_of(name, seed)}"


def method_cost(run: pathlib.Path) -> costs.PhaseCost:
    """The cost of finding a run's result, see `runs.costs`."""
    phases = costs.run_cost(run)
    own = [phases[name] for name in _OF_METHOD if name in phases]
    return costs.PhaseCost(*(sum(column) for column in zip(*own, strict=True)))


def _read_run(run: pathlib.Path, count: int) -> Result:
    opened = open_run(run, finished=True)
    facts = opened.facts
    scores = reading.read_scores(run, [facts.result])[facts.result][Split.TEST]
    bank, cost = opened.bank, method_cost(run)
    return Result(
        scores=scores,
        tokens=cost.tokens,
        seconds=cost.seconds,
        curve=_curve(run, opened.tasks),
        children=facts.evaluated_children,
        hypervolume=population.hypervolume(bank.scores[bank.complete]),
        coverage=_coverage(run, count) if count else None,
        batch_seconds=tuple(_batch_seconds(run)),
    )


def _read_model(run: pathlib.Path, method: ModelMethod) -> Result:
    if method.model == OWN_EXPERTS:
        return Result(_read_own_experts(run), 0, 0.0)
    scores = reading.read_scores(run, [method.model])[method.model][Split.TEST]
    if method.model == BEST_OF_ARCHIVE:
        phases = costs.run_cost(run)
        found = [phases[p].tokens for p in _OF_METHOD[:3] if p in phases]
        return Result(scores, sum(found), 0.0)
    spent = costs.part_costs(run).items() if method.model == SCALED else ()
    tokens = sum(cost.tokens for n, cost in spent if n.startswith(_OF_SCALED))
    return Result(scores, tokens, 0.0)


def _read_own_experts(run: pathlib.Path) -> Scores:
    opened = open_run(run, finished=True)
    names = [expert_name(expert) for expert in opened.experts]
    scores = reading.read_scores(run, names)
    found = {}
    for task in opened.tasks:

        def solved(name: str, task: str = task) -> float:
            return sum(scores[name][Split.OPTIMISE][task].values())

        own = expert_name(task)
        chosen = own if own in names else max(names, key=solved)
        found[task] = scores[chosen][Split.TEST][task]
    return found


def _read_adapter(folder: pathlib.Path, name: str, method: AdapterMethod) -> Result:
    path = folder / "results" / f"{ADAPTER_PART}.parquet"
    return Result(_part_scores(path)[name], adapter_tokens(method), 0.0)


def adapter_tokens(method: AdapterMethod) -> int | None:
    """The tokens that an adapter's training took; None if nobody knows.

    They are the method's own number, or else what `train_experts` wrote beside the
    adapter.

    Raises:
      BadInputError: that file is damaged.
    """
    written = pathlib.Path(method.adapter) / COST
    if method.tokens is not None or not written.exists():
        return method.tokens
    try:
        found = files.read_json(written)
        return costs.PhaseCost(found["tokens_forward"], found["tokens_backward"]).tokens
    except (KeyError, TypeError) as err:
        raise BadInputError(
            f"{written} is damaged: it has no tokens_forward and tokens_backward; give "
            "the method's tokens in the config."
        ) from err


def _coverage(run: pathlib.Path, count: int) -> tuple[float, float]:
    """Coverage of `test` by diverse individuals, and by samples of the result."""
    parts = [population.DIVERSE_PART, *map(population.sample_part, range(count))]
    paths = [run / "results" / f"{part}.parquet" for part in parts]
    chosen = list(_part_scores(paths[0]).values())
    samples = [m for path in paths[1:] for m in _part_scores(path).values()]
    return population.coverage(chosen), population.coverage(samples)


def _part_scores(path: pathlib.Path) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by individual, task and problem of one part."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in reading.read_rows([path], ["individual", "task", "problem", "score"]):
        by_task = found.setdefault(row["individual"], {})
        by_task.setdefault(row["task"], {})[row["problem"]] = row["score"]
    return found


def _curve(run: pathlib.Path, tasks: Sequence[str]) -> tuple[Point, ...]:
    """A point for the experts, and one for each batch of children."""
    parts, phases, points = costs.part_costs(run), costs.run_cost(run), []
    spent = sum(phases[p].tokens for p in _OF_METHOD[:2] if p in phases)
    children = 0
    best = np.full(3, -np.inf)  # on each half of the problems, and on all
    held_out = np.zeros(2)  # what the best on a half scores on the other
    problems: list[dict[str, list[str]]] = []
    batches = sorted(name for name in parts if name.startswith("batch-"))
    for part in (EXPERTS_PART, *batches):
        spent += parts[part].tokens if part in batches else 0
        found = _part_scores(run / "results" / f"{part}.parquet")
        problems = problems or _halves(next(iter(found.values())), tasks)
        for name, scores in found.items():
            children += name.startswith("child/")
            if name == BASE or not _is_complete(scores, problems[-1]):
                continue
            first, second, whole = (_mean(scores, part) for part in problems)
            for half, (own, rest) in enumerate([(first, second), (second, first)]):
                if own > best[half]:
                    best[half], held_out[half] = own, rest
            best[2] = max(best[2], whole)
        point = Point(children, spent, float(held_out.mean()), float(best[2]))
        points.append(point)
    return tuple(points)


def _halves(scores: Scores, tasks: Sequence[str]) -> list[dict[str, list[str]]]:
    """Every second problem of each task, the others, and all."""
    ordered = {task: sorted(scores[task]) for task in tasks}
    halves = [{t: ids[i::2] or ids for t, ids in ordered.items()} for i in (0, 1)]
    return [*halves, ordered]


def _mean(scores: Scores, problems: Mapping[str, Sequence[str]]) -> float:
    means = [np.mean([scores[t][p] for p in ids]) for t, ids in problems.items()]
    return float(np.mean(means))


def _is_complete(scores: Scores, problems: Mapping[str, Sequence[str]]) -> bool:
    """False for a child that was given up before all problems."""
    return all(set(ids) <= set(scores.get(t, {})) for t, ids in problems.items())


def _batch_seconds(run: pathlib.Path) -> list[float]:
    """Wall time up to the experts' scores, and up to each batch of children."""
    start, batches = 0.0, {}
    for row in files.read_log(run / "timing.jsonl"):
        try:
            seconds = float(row["seconds"])
            if row["phase"] == "batch":
                batches[int(row["generation"])] = seconds
            elif row["phase"] in _OF_METHOD[:2]:
                start += seconds
        except (KeyError, TypeError, ValueError):
            continue
    return np.cumsum([start, *(batches[t] for t in sorted(batches))]).tolist()
