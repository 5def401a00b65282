"""The data of the explorer on the page: compact JSON of a population.

Verdicts are one character per problem, replies are a bounded part; a server gives the
rest when it is asked (`replies_of`).
"""

import collections
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cycleqd_jax.reports.origins import operators, starts
from cycleqd_jax.reports.population import Population
from cycleqd_jax.reports.questions import Questions
from cycleqd_jax.reports.shares import Shares
from cycleqd_jax.runs import reading
from cycleqd_jax.runs.kinds import predicts_masks
from cycleqd_jax.runs.names import AGGREGATED, BASE, champion_name

SPLIT = "optimise"  # all individuals have results on it
_TEST = "test"  # models that were compared have results on it
_VERDICTS = 1_500_000  # characters of verdicts on a page, at most
_PAIRS = 400  # problems of a split whose replies are on a page, at most
_TEXTS = 300_000  # characters of replies of a split on a page, at most
_QUESTIONS = 150_000  # characters of questions on a page, at most
_LONGEST = 700  # characters of one reply or question on a page
_LONGEST_SERVED = 20_000


class _Wanted(NamedTuple):
    """A reply to put on the page."""

    individual: str
    split: str
    task: str
    problem: str


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
    replies, texts = _replies(population)
    asked, unasked = _questions(replies, questions or Questions(opened))
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
        "merged": _merged(population),
        "problems": problems,
        "verdicts": verdicts,
        "without_verdicts": left_out,
        "shares": shares,
        "replies": replies,
        "texts": texts,
        "questions": asked,
        "unasked": unasked,
        "longest": _LONGEST,
    }


def to_json(data: Mapping[str, Any]) -> str:
    """JSON for the inside of a script element: no text in it can end the element."""
    plain = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return plain.replace("<", "\\u003c")


def replies_of(population: Population, individual: str) -> dict[str, Any]:
    """All replies of one individual: split -> task -> problem -> three texts.

    Splits are `optimise` and, where it has results on it, `test`. The texts are the
    outcome, the last reply and the verdict's explanation; long ones are cut.
    """
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for key, row in _read_replies(population, [individual], None).items():
        texts = [row[c] or "" for c in ("outcome", "reply", "explanation")]
        own = found.setdefault(key.split, {}).setdefault(key.task, {})
        own[key.problem] = [_cut(t, _LONGEST_SERVED) for t in texts]
    return found


def question_of(questions: Questions, task: str, problem: str) -> dict[str, str]:
    """The question of one problem under `text`, or under `why` why there is none."""
    text = questions.find(task, problem)
    if text is None:
        return {"why": questions.why(task)}
    return {"text": _cut(text, _LONGEST_SERVED)}


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


def _merged(population: Population) -> dict[str, list[str]]:
    """The aggregated model -> the champions that it was made of."""
    facts = population.opened.facts
    if facts is None or AGGREGATED not in population.others:
        return {}
    return {AGGREGATED: list(facts.parents(AGGREGATED))}


def _by_interest(population: Population) -> list[str]:
    """Names, those that a reader wants first: champions, elites, the newest."""
    facts = population.opened.facts
    champions = facts.aggregation.values() if facts else ()
    elites = set(population.elites().values())
    return list(
        dict.fromkeys(
            [
                *population.others,
                *population.experts,
                *(c.individual for c in champions),
                *(name for name in population.names if name in elites),
                *reversed(population.names),
            ]
        )
    )


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
    for name in _by_interest(population):
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


def _replies(population: Population) -> tuple[dict, list[str]]:
    """Replies where an individual and another differ, of the most wanted first.

    Returns individual -> split -> task -> problem -> places in the list of texts of the
    outcome, the reply and the explanation; and that list.
    """
    wanted = [*_differences(population, SPLIT), *_differences(population, _TEST)]
    names = dict.fromkeys(w.individual for w in wanted)
    rows = _read_replies(population, names, {w.problem for w in wanted})
    texts: dict[str, int] = {}
    found: dict[str, Any] = {}
    spent = collections.Counter()
    for key in wanted:
        row = rows.get(key)
        if row is None or spent[key.split] > _TEXTS:
            continue
        places = []
        for column in ("outcome", "reply", "explanation"):
            text = _cut(row[column] or "", _LONGEST)
            spent[key.split] += 0 if text in texts else len(text)
            places.append(texts.setdefault(text, len(texts)))
        tasks = found.setdefault(key.individual, {}).setdefault(key.split, {})
        tasks.setdefault(key.task, {})[key.problem] = places
    return found, list(texts)


def _questions(
    replies: Mapping[str, Any], questions: Questions
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The questions of the replies on the page, and why a task has none.

    Both are by task; questions beyond what a page holds are left out.
    """
    found: dict[str, dict[str, str]] = {}
    reasons: dict[str, str] = {}
    spent = 0
    for splits in replies.values():
        for own in splits.values():
            for task, problem in ((t, p) for t, each in own.items() for p in each):
                if task in reasons or problem in found.get(task, ()):
                    continue
                text = questions.find(task, problem)
                if text is None:
                    reasons[task] = questions.why(task)
                elif spent <= _QUESTIONS:
                    found.setdefault(task, {})[problem] = _cut(text, _LONGEST)
                    spent += len(found[task][problem])
    return found, reasons


def _differences(population: Population, split: str) -> Iterable[_Wanted]:
    """The replies of both sides where an individual and another differ, each once.

    The others are parents, or of a start all experts; on `test`, which few parents
    have, also base and experts.
    """
    others: dict[str, Iterable[str]] = {c.name: c.parents for c in population.children}
    others |= _merged(population)
    seeds = starts(population.opened.config, population.children)
    others |= dict.fromkeys(seeds, population.experts)
    usual = (BASE, *population.experts) if split == _TEST else ()
    seen: dict[_Wanted, None] = {}
    for name in _by_interest(population):
        own = population.scores.get(name, {}).get(split, {})
        for rival in dict.fromkeys([*others.get(name, ()), *usual]):
            other = population.scores.get(rival, {}).get(split, {})
            for task in population.opened.tasks:
                for problem, score in sorted(own.get(task, {}).items()):
                    if other.get(task, {}).get(problem, score) == score:
                        continue
                    if len(seen) >= 2 * _PAIRS:
                        return seen
                    seen[_Wanted(name, split, task, problem)] = None
                    seen[_Wanted(rival, split, task, problem)] = None
    return seen


def _read_replies(
    population: Population, individuals: Iterable[str], problems: Iterable[str] | None
) -> dict[_Wanted, Mapping[str, Any]]:
    """Rows of individuals; of several of one problem the first counts."""
    sources = {name: _sources(population, name) for name in individuals}
    columns = ["individual", "task", "problem", "outcome", "reply", "explanation"]
    chosen = {} if problems is None else {"problem": set(problems)}
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in reading.read_rows(
        reading.parts(population.opened.path, "results"),
        [*columns, "split"],
        individual={source for names in sources.values() for source in names},
        split=[SPLIT, _TEST],
        **chosen,
    ):
        rows.setdefault(row["individual"], []).append(row)
    found: dict[_Wanted, Mapping[str, Any]] = {}
    for name, names in sources.items():
        for source in names:
            for row in rows.get(source, ()):
                key = _Wanted(name, row["split"], row["task"], row["problem"])
                found.setdefault(key, row)
    return found


def _sources(population: Population, name: str) -> tuple[str, ...]:
    """The names under which an individual has results: its own, then as a model."""
    facts, aliases = population.opened.facts, population.aliases
    models = facts.models if facts else ()
    same = [m for m in models if name in (m.name, aliases.get(m.name))]
    more = (source for m in same for source in (m.name, m.scored_as))
    return tuple(dict.fromkeys([name, *more]))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\u2026"
