"""The numbers of a report: scores with intervals, paired differences, lineage.

Everything here is a pure function of a `RunData`; the result is what `report.json`
holds and what figures, page and terminal show.
"""

import math
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.reports import lineage, out_of_domain, statistics
from cycleqd_jax.reports.run_data import RunData
from cycleqd_jax.runs.costs import TEST, PhaseCost
from cycleqd_jax.runs.names import expert_name
from cycleqd_jax.search.merges import UNIFORM

SELECTED = {  # split -> what was chosen by its scores
    "optimise": "children, archives and the factor of scaled_merge were selected on it",
    "validate": "the champions that make the result were chosen on it",
}


def make_report(data: RunData) -> dict[str, Any]:
    """All numbers of the report, ready for JSON.

    Scores are accuracies, or means of shares, in [0, 1]. `mean` weighs every task the
    same and is left out where a task was not evaluated; `problems` counts all tasks
    together. `metrics` are means of what tasks say beside the score, `metric_errors`
    their standard errors over problems. Intervals are 95 %: see
    `statistics.score_interval`, and for the mean `statistics.mean_interval`. Nothing
    but `timing` depends on the machine's speed.
    """
    return {
        "result": data.facts.result,
        "models": {model: _scores(data, model) for model in data.models},
        "metrics": data.metrics,
        "metric_errors": data.metric_errors,
        "paired": _paired(data),
        "selected_on": SELECTED,
        "winners_curse": _winners_curse(data),
        "search": data.config.search,
        "evaluated_children": data.facts.evaluated_children,
        "state_fingerprint": data.facts.state_fingerprint,
        "basis": _basis(data),
        "archives": _archives(data),
        "aggregation": _champions(data),
        "best": data.facts.best,
        "scaled_merge": data.facts.scaled_merge.model_dump(),
        "seed": data.config.seed,
        "tasks": list(data.tasks),
        "experts": list(data.experts),
        "retention": {
            model: row.model_dump() for model, row in data.facts.retention.items()
        },
        "out_of_domain": out_of_domain.numbers(data),
        "cost": _cost(data),
        **({"unit": "images"} if data.of_images else {}),
        "timing": {"total_s": sum(data.seconds.values()), "phases": data.seconds},
    }


def metric_names(report: Mapping[str, Any], split: str) -> dict[str, list[str]]:
    """Task -> the names of its metrics on a split; empty where no task has any."""
    found: dict[str, dict[str, None]] = {}
    for splits in report["metrics"].values():
        for task, means in splits.get(split, {}).items():
            found.setdefault(task, {}).update(dict.fromkeys(means))
    return {task: list(found[task]) for task in report["tasks"] if task in found}


def best_expert(report: Mapping[str, Any], split: str) -> str:
    """The expert with the highest mean; the first of equal ones."""
    experts = [expert_name(expert) for expert in report["experts"]]
    return max(experts, key=lambda name: report["models"][name][split]["mean"])


def _scores(data: RunData, model: str) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for split, tasks in data.scores[model].items():
        scores = {
            task: statistics.mean(list(tasks[task].values()))
            for task in data.tasks
            if task in tasks
        }
        counts = {task: len(tasks[task]) for task in scores}
        limits = {
            task: statistics.score_interval(list(tasks[task].values()))
            for task in scores
        }
        intervals = {task: list(limit) for task, limit in limits.items()}
        entry: dict[str, Any] = dict(scores)
        if len(scores) == len(data.tasks):
            entry["mean"] = statistics.mean(list(scores.values()))
            intervals["mean"] = list(
                statistics.interval_of_mean(
                    list(scores.values()), list(limits.values())
                )
            )
        splits[split] = entry | {
            "problems": sum(counts.values()),
            "interval": intervals,
        }
    return splits


def _paired(data: RunData) -> list[dict[str, Any]]:
    """The result against every other row, on every split both were evaluated on."""
    rows = []
    result = data.facts.result
    for split, tasks in data.scores[result].items():
        for model in data.models:
            if model == result:
                continue
            others = data.scores[model].get(split, {})
            if not all(task in tasks and task in others for task in data.tasks):
                continue
            by_task = {
                task: statistics.paired_difference(tasks[task], others[task])
                for task in data.tasks
            }
            total = statistics.mean_difference(list(by_task.values()))
            rows.append(
                {"model": result, "against": model, "split": split}
                | _difference(total)
                | {"tasks": {task: _difference(d) for task, d in by_task.items()}}
            )
    return rows


def _winners_curse(data: RunData) -> dict[str, dict[str, Any]]:
    """Mean on `optimise` minus mean on `test`, of every model with both.

    A model that was selected by its score on `optimise` owes a part of it to luck, and
    `test` takes that back. Base, experts and uniform merge were not selected: their
    difference is how much harder `test` is. Both splits are independent samples, so the
    errors are added in squares.
    """
    unselected = {"base", UNIFORM, *map(expert_name, data.experts)}
    rows = {}
    for model, splits in data.scores.items():
        pair = [splits.get("optimise", {}), splits.get("test", {})]
        if not all(task in tasks for tasks in pair for task in data.tasks):
            continue
        scores = [[list(tasks[task].values()) for task in data.tasks] for tasks in pair]
        on_optimise, on_test = (
            statistics.mean([statistics.mean(own) for own in split]) for split in scores
        )
        errors = [statistics.standard_error(own) for split in scores for own in split]
        rows[model] = {
            "optimise": on_optimise,
            "test": on_test,
            "difference": on_optimise - on_test,
            "standard_error": math.hypot(*errors) / len(data.tasks),
            "selected": model not in unselected,
        }
    return rows


def _difference(difference: statistics.Difference) -> dict[str, Any]:
    return difference._asdict() | {"interval": list(difference.interval)}


def _basis(data: RunData) -> dict[str, Any]:
    """The experts' similarity, and the scores of those that the basis changed."""
    changed = {}
    for expert, share in data.basis.get("energy_kept", {}).items():
        least = data.basis["least_kept"].get(expert)
        row = {"energy_kept": share, "least_kept": least}
        trained = data.trained.get(expert, {}).get("optimise")
        if trained:
            genome = data.scores[expert_name(expert)]["optimise"]
            for key, scores in (("as_trained", trained), ("as_genome", genome)):
                means = {t: statistics.mean(list(scores[t].values())) for t in scores}
                row[key] = means | {"mean": statistics.mean(list(means.values()))}
        changed[expert] = row
    return {
        "conditioning": data.basis.get("conditioning", "none"),
        "gram_tokens": data.basis.get("gram_tokens", 0),
        "similarity": data.basis.get("similarity", []),
        "changed": changed,
    }


def _archives(data: RunData) -> dict[str, Any]:
    """The content of each archive at the end; empty for a search without archives."""
    if not data.elites:
        return {}
    facts = data.facts.search
    more = {"retention": facts["retention"]} if "retention" in facts else {}
    cells = facts["bins"] ** (len(data.tasks) - 1 + len(more))
    archives = {}
    for task in data.tasks:
        elites = [elite for elite in data.elites if elite.archive == task]
        qualities = [elite.quality for elite in elites]
        archives[task] = {
            "elites": len(elites),
            "coverage": len(elites) / cells,
            "best": max(qualities, default=None),
            "qd_score": float(sum(qualities)),
            "range": facts["ranges"][task],
        } | more
    return archives


def _cost(data: RunData) -> dict[str, Any]:
    """Tokens through the model by phase, and in all.

    `tokens` counts a backward token twice; `share` is that of all tokens but those of
    `test`, which only reports.
    """
    phases = {
        phase: PhaseCost(cost.tokens_forward, cost.tokens_backward)
        for phase, cost in data.facts.cost.items()
    }
    total = sum(cost.tokens for name, cost in phases.items() if name != TEST)
    rows = {
        name: {
            "tokens_forward": cost.tokens_forward,
            "tokens_backward": cost.tokens_backward,
            "tokens": cost.tokens,
            "share": cost.tokens / total if total and name != TEST else None,
        }
        for name, cost in phases.items()
    }
    return {"phases": rows, "tokens_without_test": total}


def _champions(data: RunData) -> dict[str, Any]:
    """The champion of each group, what it is made of, and how lucky it was."""
    return {
        group: champion.model_dump()
        | {
            "expert_shares": lineage.expert_shares(data, champion.individual),
            "optimise_minus_validate": _luck(data, group),
        }
        for group, champion in data.facts.aggregation.items()
    }


def _luck(data: RunData, group: str) -> float | None:
    """A champion's score on `optimise` minus that on `validate`, which chose it."""
    champion = data.facts.aggregation[group]
    if champion.validated is None:
        return None
    if data.config.aggregation.choose_by == "quality" or group not in data.tasks:
        return champion.quality - champion.validated
    children = {child.name: child.scores for child in data.children}
    scores = children.get(champion.individual)
    if scores is None:  # an expert
        own = data.scores[champion.individual]["optimise"]
        scores = {task: statistics.mean(list(own[task].values())) for task in own}
    return statistics.mean(list(scores.values())) - champion.validated
