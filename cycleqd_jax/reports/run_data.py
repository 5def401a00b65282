"""Reads everything that a report needs from a run's folder, checks it, once."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports.candidates import Child, Elite, read_children, read_elites
from cycleqd_jax.runs import reading
from cycleqd_jax.runs.facts import RunFacts
from cycleqd_jax.runs.kinds import predicts_masks
from cycleqd_jax.runs.names import BASE, trained_expert_name
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.runs.out_of_domain import SPLIT as OUT_OF_DOMAIN
from cycleqd_jax.tasks.registry import task_class

SPLITS = ("test", "validate", "optimise")  # in the order in which a reader wants them

# individual -> split -> task -> problem -> score in [0, 1]
Scores = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]


@dataclasses.dataclass(frozen=True)
class RunData:
    """A finished run.

    Attributes:
      config: its settings.
      facts: its outcome, from `state.json`.
      tasks: names, in the order of scores.
      experts: names; a task's expert has the task's.
      models: names, the rows of the table.
      scores: per-problem scores of `models`.
      samples: individual, task, problem, outcome, answer, reply of the result on the
        first split of `SPLITS` it has.
      children: in order of generation.
      elites: of all archives; empty for a search without archives.
      basis: `basis.json`: how alike the experts are, and what their basis keeps.
      metrics: means of further verdicts of `models`, by split, task and name.
      metric_errors: their standard errors over problems, where a name is not made of
        others.
      trained: scores of the experts as they were trained, where their genomes are
        others, by expert; like `scores`.
      out_of_domain: scores of `models` on tasks that the search did not see: task,
        model, problem, score in [0, 1].
      seconds: wall time by phase; the only thing that differs between equal runs.
    """

    config: RunConfig
    facts: RunFacts
    tasks: tuple[str, ...]
    experts: tuple[str, ...]
    models: tuple[str, ...]
    scores: Scores
    samples: Sequence[Mapping[str, Any]]
    children: tuple[Child, ...]
    elites: tuple[Elite, ...]
    basis: Mapping[str, Any]
    metrics: Scores
    metric_errors: Scores
    trained: Scores
    out_of_domain: Mapping[str, Mapping[str, Mapping[str, float]]]
    seconds: Mapping[str, float]

    @property
    def of_images(self) -> bool:
        """True for a run of segmentation models."""
        return predicts_masks(self.config)


def read_run(run_dir: str | pathlib.Path) -> RunData:
    """Reads a finished run.

    Raises:
      BadInputError: if this is no run folder, the run has not finished, or a file does
        not hold what it should; says which.
    """
    opened = open_run(run_dir, finished=True)
    run, config, facts, tasks = opened.path, opened.config, opened.facts, opened.tasks
    aliases = {model.name: model.scored_as for model in facts.models}
    trained = {expert: trained_expert_name(expert) for expert in opened.experts}
    wanted = {*aliases, *aliases.values(), *trained.values()}
    found = reading.read_scores(run, wanted)
    scores = {
        model: _resolve(model, scored_as, found) for model, scored_as in aliases.items()
    }
    _check_complete(run, tasks, scores, facts.result)
    classes = dict(zip(tasks, config.tasks, strict=True)) | facts.out_of_domain
    metrics, metric_errors = _metrics(run, aliases, classes)
    return RunData(
        config=config,
        facts=facts,
        tasks=tasks,
        experts=opened.experts,
        models=tuple(aliases),
        scores=scores,
        samples=_samples(run, facts.result, aliases[facts.result], scores),
        children=read_children(run, tasks),
        elites=read_elites(run, facts),
        basis=reading.read_basis_facts(run),
        metrics=metrics,
        metric_errors=metric_errors,
        trained={e: found[name] for e, name in trained.items() if name in found},
        out_of_domain=_out_of_domain(run, facts, found),
        seconds=reading.read_seconds(run),
    )


def _out_of_domain(
    run: pathlib.Path, facts: RunFacts, found: Scores
) -> dict[str, dict[str, Mapping[str, float]]]:
    """Task -> model -> problem -> score.

    Raises:
      BadInputError: a model lacks a task, or was scored on other problems.
    """
    scores: dict[str, dict[str, Mapping[str, float]]] = {}
    for task in facts.out_of_domain:
        for model in facts.models:
            own = found.get(model.name, {}).get(OUT_OF_DOMAIN, {}).get(task)
            if not own:
                what = f"results hold no score of {model.name} on {task}, out of domain"
                raise reading.unfinished(run, what)
            scores.setdefault(task, {})[model.name] = own
        base = scores[task][BASE]
        for name, own in scores[task].items():
            _check_same_problems(run, name, OUT_OF_DOMAIN, task, own, base)
    return scores


def _resolve(
    model: str, scored_as: str, found: Scores
) -> dict[str, Mapping[str, Mapping[str, float]]]:
    """Split -> task -> problem -> score; the model's own name goes first."""
    splits = {**found.get(scored_as, {}), **found.get(model, {})}
    return {split: splits[split] for split in SPLITS if split in splits}


def _metrics(
    run: pathlib.Path, aliases: Mapping[str, str], classes: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Means of further verdicts by model, split and task, as the task sums them up.

    `classes` has each task's name or import path in the config. Also returns the
    standard errors of the means, in the same form.
    """
    found = reading.read_metrics(run, {*aliases, *aliases.values()})
    ways = {task: _summary(classes[task]) for task in classes}
    shown: dict[str, dict[str, Any]] = {}
    errors: dict[str, dict[str, Any]] = {}
    for model, scored_as in aliases.items():
        splits = {**found.get(scored_as, {}), **found.get(model, {})}
        for split, tasks in splits.items():
            shown.setdefault(model, {})[split] = {
                task: ways[task]({name: mean.value for name, mean in means.items()})
                for task, means in tasks.items()
                if task in ways  # others were out of domain before
            }
            errors.setdefault(model, {})[split] = {
                task: {name: mean.error for name, mean in means.items()}
                for task, means in tasks.items()
            }
    return shown, errors


def _summary(name: str) -> Callable[[Mapping[str, float]], Mapping[str, float]]:
    """The task's own summary of its metrics; the metrics themselves if it has none."""
    try:
        return getattr(task_class(name), "summarise", dict)
    except BadInputError:  # a report needs no task: one's own may be elsewhere by now
        return dict


def _check_complete(
    run: pathlib.Path, tasks: Sequence[str], scores: Scores, result: str
) -> None:
    """Checks that the results are whole.

    Every row has every task of the split that is reported first, on equal problems.

    Raises:
      BadInputError: says which is missing.
    """
    reported = "test" if "test" in scores[result] else "optimise"
    for model, splits in scores.items():
        for task in tasks:
            if not splits.get(reported, {}).get(task):
                raise reading.unfinished(
                    run, f"results hold no score of {model} on {reported} of {task}"
                )
        for split, by_task in splits.items():
            for task, problems in by_task.items():
                others = scores["base"].get(split, {}).get(task, problems)
                _check_same_problems(run, model, split, task, problems, others)


def _check_same_problems(
    run: pathlib.Path,
    model: str,
    split: str,
    task: str,
    problems: Mapping[str, float],
    others: Mapping[str, float],
) -> None:
    if problems.keys() != others.keys():
        raise BadInputError(
            f"{run}: {model} was scored on other problems of {split} of {task} than "
            f"the base model ({len(problems)} and {len(others)}); expected the same "
            "ones."
        )


def _samples(
    run: pathlib.Path, result: str, scored_as: str, scores: Scores
) -> list[dict[str, Any]]:
    """Per task one solved and one unsolved problem of the result, with its reply."""
    split = next(split for split in SPLITS if split in scores[result])
    wanted = set()
    for problems in scores[result][split].values():
        solved = [problem for problem in sorted(problems) if problems[problem] > 0]
        failed = [problem for problem in sorted(problems) if problems[problem] == 0]
        wanted.update(solved[:1] + failed[:1])
    return reading.read_replies(run, (result, scored_as), split, wanted)
