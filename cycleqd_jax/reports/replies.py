"""Replies on the explorer's page, with their questions: a bounded part of a run's.

Those come first in which an individual and another that it descends from differ. A
server gives the rest when it is asked (`replies_of`, `question_of`).
"""

import collections
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cycleqd_jax.reports.origins import starts
from cycleqd_jax.reports.population import Population
from cycleqd_jax.reports.questions import Questions
from cycleqd_jax.runs import reading
from cycleqd_jax.runs.names import AGGREGATED, BASE

SPLIT = "optimise"  # all individuals have results on it
LONGEST = 700  # characters of one reply or question on a page
_TEST = "test"  # models that were compared have results on it
_PAIRS = 400  # problems of a split whose replies are on a page, at most
_TEXTS = 300_000  # characters of replies of a split on a page, at most
_QUESTIONS = 150_000  # characters of questions on a page, at most
_LONGEST_SERVED = 20_000


class _Wanted(NamedTuple):
    """A reply to put on the page."""

    individual: str
    split: str
    task: str
    problem: str


def replies_of(population: Population, individual: str) -> dict[str, Any]:
    """All replies of one individual: split -> task -> problem -> three texts.

    Splits are `optimise` and, where it has results on it, `test`. The texts are the
    outcome, the last reply and the verdict's explanation; long ones are cut.
    """
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for key, row in _read_replies(population, [individual], None).items():
        texts = [row[c] or "" for c in ("outcome", "reply", "explanation")]
        own = found.setdefault(key.split, {}).setdefault(key.task, {})
        own[key.problem] = [cut(t, _LONGEST_SERVED) for t in texts]
    return found


def question_of(questions: Questions, task: str, problem: str) -> dict[str, str]:
    """The question of one problem under `text`, or under `why` why there is none."""
    text = questions.find(task, problem)
    if text is None:
        return {"why": questions.why(task)}
    return {"text": cut(text, _LONGEST_SERVED)}


def replies_on_page(population: Population) -> tuple[dict, list[str]]:
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
            text = cut(row[column] or "", LONGEST)
            spent[key.split] += 0 if text in texts else len(text)
            places.append(texts.setdefault(text, len(texts)))
        tasks = found.setdefault(key.individual, {}).setdefault(key.split, {})
        tasks.setdefault(key.task, {})[key.problem] = places
    return found, list(texts)


def questions_on_page(
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
                    found.setdefault(task, {})[problem] = cut(text, LONGEST)
                    spent += len(found[task][problem])
    return found, reasons


def merged(population: Population) -> dict[str, list[str]]:
    """The aggregated model -> the champions that it was made of."""
    facts = population.opened.facts
    if facts is None or AGGREGATED not in population.others:
        return {}
    return {AGGREGATED: list(facts.parents(AGGREGATED))}


def by_interest(population: Population) -> list[str]:
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


def _differences(population: Population, split: str) -> Iterable[_Wanted]:
    """The replies of both sides where an individual and another differ, each once.

    The others are parents, or of a start all experts; on `test`, which few parents
    have, also base and experts.
    """
    others: dict[str, Iterable[str]] = {c.name: c.parents for c in population.children}
    others |= merged(population)
    seeds = starts(population.opened.config, population.children)
    others |= dict.fromkeys(seeds, population.experts)
    usual = (BASE, *population.experts) if split == _TEST else ()
    seen: dict[_Wanted, None] = {}
    for name in by_interest(population):
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


def cut(text: str, most: int = LONGEST) -> str:
    """A text, its end left out beyond `most` characters."""
    return text if len(text) <= most else f"{text[:most]}\u2026"
