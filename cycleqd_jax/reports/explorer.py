"""The data of the explorer on the page: compact JSON of a population.

Verdicts are one character per problem; of the replies see `replies`.
"""

import json
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.reports.origins import operators, starts
from cycleqd_jax.reports.population import Population
from cycleqd_jax.reports.questions import Questions
from cycleqd_jax.reports.replies import (
    LONGEST,
    SPLIT,
    by_interest,
    merged,
    questions_on_page,
    replies_on_page,
)
from cycleqd_jax.reports.shares import Shares
from cycleqd_jax.runs.kinds import predicts_masks
from cycleqd_jax.runs.names import champion_name

_VERDICTS = 1_500_000  # characters of verdicts on a page, at most


def explorer_data(
    population: Population, shares: Shares, questions: Questions | None = None
) -> dict[str, Any]:
    """The data as plain values, ready for JSON.

    Equal runs give equal data; the run's folder is not in them.

    Args:
      population: of the run.
      shares: of experts in individuals, by group of layers; empty if unknown.
      questions: of the run; a page without them has replies alone.
    """
    opened, tasks = population.opened, population.opened.tasks
    facts = opened.facts
    numbers = {name: number for number, name in enumerate(population.names)}
    verdicts, problems, left_out = _verdicts(population)
    replies, texts = replies_on_page(population)
    asked, unasked = questions_on_page(replies, questions or Questions(opened))
    places = [
        [p.generation, p.archive, numbers[p.individual], list(p.bins)]
        for p in population.placements
    ]
    return {
        "tasks": list(tasks),
        "experts": list(opened.experts),
        "search": opened.config.search,
        "operators": operators(opened.config),
        "result": _result(population),
        "finished": facts is not None,
        "masks": predicts_masks(opened.config),
        "asked": opened.config.qd.num_generations,
        "grid": _grid(population),
        "individuals": _individuals(population),
        "places": places,
        "others": population.others,
        "also": _also(population),
        "merged": merged(population),
        "problems": problems,
        "verdicts": verdicts,
        "without_verdicts": left_out,
        "shares": shares,
        "replies": replies,
        "texts": texts,
        "questions": asked,
        "unasked": unasked,
        "longest": LONGEST,
    }


def to_json(data: Mapping[str, Any]) -> str:
    """JSON for the inside of a script element: no text in it can end the element."""
    plain = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return plain.replace("<", "\\u003c")


def _result(population: Population) -> str | None:
    """The result of the run, by the name of the individual that it is."""
    facts = population.opened.facts
    if facts is None:
        return None
    own = {champion_name(g): c.individual for g, c in facts.aggregation.items()}
    return {**own, **population.aliases}.get(facts.result, facts.result)


def _individuals(population: Population) -> list[dict[str, Any]]:
    """Name, scores, parents and their weights or start, archive; experts first."""
    opened, rows = population.opened, []
    seeds = starts(opened.config, population.children)
    for name in population.experts:
        own = population.scores.get(name, {}).get(SPLIT, {})
        means = [_mean(own.get(task, {})) for task in opened.tasks]
        rows.append({"n": name, "s": means})
    place = {name: index for index, name in enumerate(population.names)}
    for child in population.children:
        row = {"n": child.name, "s": [round(child.scores[t], 6) for t in opened.tasks]}
        if child.parents and all(parent in place for parent in child.parents):
            row["p"] = [place[parent] for parent in child.parents]
            row["w"] = [round(w, 4) if w == w else None for w in child.weights]
        elif child.name in seeds:
            row["start"] = seeds[child.name]
        if child.active_task in opened.tasks:
            row["a"] = opened.tasks.index(child.active_task)
        if not child.complete:
            row["i"] = 1  # given up before it had answered all problems
        rows.append(row)
    return rows


def _mean(scores: Mapping[str, float]) -> float | None:
    return round(sum(scores.values()) / len(scores), 6) if scores else None


def _grid(population: Population) -> dict[str, Any] | None:
    """Bins, and the label and range of every dimension of every archive."""
    grid, tasks = population.grid, population.opened.tasks
    if grid is None:
        return None
    more = [["retention", *grid.retention]] if grid.retention else []
    every = [[t, *limits] for t, limits in zip(tasks, grid.ranges, strict=True)]
    dimensions = [[d for d in every if d[0] != task] + more for task in tasks]
    return {"bins": grid.bins, "dimensions": dimensions}


def _also(population: Population) -> dict[str, list[str]]:
    """Individual -> its other names in tables and on command lines."""
    found: dict[str, list[str]] = {}
    facts = population.opened.facts
    champions = facts.aggregation if facts else {}
    for group, champion in champions.items():
        found.setdefault(champion.individual, []).append(champion_name(group))
    for name, individual in population.aliases.items():
        if name not in found.get(individual, ()):
            found.setdefault(individual, []).append(name)
    return found


def _verdicts(population: Population) -> tuple[dict, dict, int]:
    """Verdicts of all models and splits, the problems' ids, and who was left out.

    A row is a text of 0, 1 and - (not answered); where a score is between these, a list
    of numbers. Rows are in the order of the problems.
    """
    ids: dict[str, dict[str, set[str]]] = {}
    every = [*population.others, *population.names]
    for name in every:
        for split, own in population.scores.get(name, {}).items():
            for task, scores in own.items():
                ids.setdefault(split, {}).setdefault(task, set()).update(scores)
    problems = {
        s: {t: sorted(own[t]) for t in sorted(own)} for s, own in sorted(ids.items())
    }
    rows: dict[str, Any] = {}
    spent = 0
    for name in by_interest(population):
        own = population.scores.get(name, {})
        row = {
            split: {
                t: _row(own[split][t], problems[split][t]) for t in sorted(own[split])
            }
            for split in sorted(own)
        }
        spent += sum(len(text) for tasks in row.values() for text in tasks.values())
        if spent > _VERDICTS:
            break
        rows[name] = row
    return rows, problems, len(every) - len(rows)


def _row(scores: Mapping[str, float], ids: list[str]) -> str | list[float | None]:
    values = [scores.get(problem) for problem in ids]
    if all(value in (0.0, 1.0, None) for value in values):
        return "".join("-" if v is None else str(int(v)) for v in values)
    return [None if value is None else round(value, 4) for value in values]
