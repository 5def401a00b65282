"""Races: who drops out, on which problems, and what it does to scores and tokens."""

import math

import numpy as np
import pytest
from scripted import ScriptedEvaluator

from cycleqd_jax.evaluation.base import Cost, Evaluation
from cycleqd_jax.evaluation.racing import RacingEvaluator, Verdict
from cycleqd_jax.evaluation.rungs import (
    RacingSettings,
    Rung,
    make_rungs,
    planned_episodes,
    standings,
)
from cycleqd_jax.tasks.base import Problem, Split

TWO = RacingSettings(rungs=2)
ONE = RacingSettings(rungs=1)


class Listed:
    max_new_tokens, fingerprint = 1, "0"

    def __init__(self, name, count):
        self.name = name
        self._problems = [Problem(f"{name}/{i}", "?", "!") for i in range(count)]

    def problems(self, split):
        return self._problems


TASKS = (Listed("a", 8), Listed("b", 6))


def table_rule(individual, task, index):
    return float(individual[task][index])


def drawn(rng, count=8, chance=0.5):
    """Individuals as tables of verdicts, and their exact means."""
    tables = {
        f"child/{i}": {
            t.name: (rng.random(len(t.problems(None))) < chance).astype(float)
            for t in TASKS
        }
        for i in range(count)
    }
    return tables, {
        name: {task: row.mean() for task, row in table.items()}
        for name, table in tables.items()
    }


def test_the_rungs_of_a_batch():
    assert make_rungs(TWO, (8, 6), 8) == [
        Rung((2, 2), 8),
        Rung((4, 3), 4),
        Rung((8, 6), 2),
    ]
    assert planned_episodes(make_rungs(TWO, (8, 4), 8)) == 8 * 12 // 2
    assert make_rungs(TWO, (8, 6), 1) == [Rung((8, 6), 1)]
    assert make_rungs(RacingSettings(), (8, 6), 8) == [Rung((8, 6), 8)]
    assert [r.candidates for r in make_rungs(TWO, (8, 6), 2)] == [2, 1]
    assert [r.candidates for r in make_rungs(TWO, (8, 6), 3)] == [3, 2, 1]
    third = RacingSettings(rungs=1, keep=0.3)
    assert make_rungs(third, (10, 1), 10) == [Rung((3, 1), 10), Rung((10, 1), 3)]


def test_specialists_and_the_best_on_average_go_first():
    means = {
        "low": (0.4, 0.4, 0.4),
        "average": (0.5, 0.5, 0.5),
        "specialist": (0.9, 0.0, 0.0),
        "all-rounder": (0.6, 0.6, 0.6),
    }
    found = standings(means)
    ranked = sorted(means, key=found.__getitem__)
    assert ranked == ["all-rounder", "specialist", "average", "low"]
    assert [found[name].place for name in ranked] == [0, 0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_who_stays_is_evaluated_on_everything_and_the_rest_on_less(seed):
    tables, means = drawn(np.random.default_rng(seed))
    inner = ScriptedEvaluator(TASKS, table_rule)
    heard = []
    episodes, cost = RacingEvaluator(inner, TWO).evaluate(
        tables, Split.OPTIMISE, progress=lambda *now: heard.append(now)
    )
    by_name = {name: [e for e in episodes if e.individual == name] for name in tables}
    assert sorted(map(len, by_name.values())) == [4] * 4 + [7] * 2 + [14] * 2
    order = [(e.individual, e.task, int(e.problem.split("/")[1])) for e in episodes]
    assert order == sorted(order)
    for name, rows in by_name.items():
        for task in ("a", "b"):
            scores = [e.score for e in rows if e.task == task]
            share = len(scores) / len(tables[name][task])
            assert len(rows) < 14 or sum(scores) / len(scores) == means[name][task]
            assert len(scores) == math.ceil(share * len(tables[name][task])) > 0
    # Two tokens for an episode; half of 8 * 14, and a problem more by rounding.
    assert cost.tokens_forward == 2 * len(episodes) == 2 * (4 * 4 + 2 * 7 + 2 * 14)
    assert not heard  # the scripted evaluator says nothing


class Tables:
    """A fast evaluator: episodes are verdicts, one token each."""

    def __init__(self, tasks):
        self.tasks = tasks

    def evaluate(self, individuals, split, *, problems=None, progress=None):
        rows = [
            Verdict(name, task, problem, table[problem])
            for name, table in individuals.items()
            for task, ids in problems.items()
            for problem in ids
        ]
        return Evaluation(rows, Cost(len(rows), 0, 0.0))


def test_ten_thousand_searches_are_unbiased_and_cheaper():
    """Batches of 4, two tasks of 4 problems of their own difficulty, the record grows.

    The score of who stays is exactly the mean over all its problems. A champion's score
    is a maximum, so it is optimistic against the true mean; racing adds nothing to it.
    """
    rng = np.random.default_rng(0)
    tasks = (Listed("a", 4), Listed("b", 4))
    racing, searches = RacingEvaluator(Tables(tasks), ONE), 10_000
    ids = [p.id for task in tasks for p in task.problems(None)]
    ability = rng.normal(0.0, 1.0, (searches, 4, 1))
    difficulty = np.linspace(-2.0, 2.0, len(ids))
    chances = 1 / (1 + np.exp(difficulty - ability))  # [searches, 4, problems]
    verdicts = (rng.random(chances.shape) < chances).astype(float)
    true = chances.mean(-1)
    tokens, errors, plain = 0, [], []
    for s in range(searches):
        tables = {
            str(i): dict(zip(ids, verdicts[s, i].tolist(), strict=True))
            for i in range(4)
        }
        rows, cost = racing.evaluate(tables, Split.OPTIMISE)
        tokens += cost.tokens_forward
        scores = {}
        for row in rows:
            scores.setdefault(row.individual, []).append(row.score)
        complete = {
            int(n): sum(x) / len(x) for n, x in scores.items() if len(x) == len(ids)
        }
        assert len(complete) == 2
        for i, mean in complete.items():
            assert mean == verdicts[s, i].mean()
        best = max(complete, key=complete.get)
        errors.append(complete[best] - true[s, best])
        full = verdicts[s].mean(-1)
        plain.append(full.max() - true[s, full.argmax()])
    assert tokens == searches * (4 * 4 + 2 * 4)  # of 32 without racing
    errors, plain = np.asarray(errors), np.asarray(plain)
    standard_error = np.std(errors - plain) / math.sqrt(searches)
    assert plain.mean() > 10 * standard_error  # the curse is there to be seen
    assert errors.mean() <= plain.mean() + 2 * standard_error


def test_contested_problems_come_first():
    """Two individuals disagreed on a/5, a/2 and b/3; one that was rejected does not
    count."""
    record = []
    for i in range(2):
        for task in TASKS:
            for index in range(len(task.problems(None))):
                odd = (task.name, index) in {("a", 5), ("a", 2), ("b", 3)}
                score = float(i) if odd else 0.25
                record.append(Verdict(str(i), task.name, f"{task.name}/{index}", score))
    record += [Verdict("rejected", "a", "a/7", 1.0), Verdict("rejected", "b", "b/0", 1)]
    tables, _ = drawn(np.random.default_rng(0), count=4)
    inner = ScriptedEvaluator(TASKS, table_rule)
    racing = RacingEvaluator(inner, TWO, record=record)
    episodes, _ = racing.evaluate(tables, Split.OPTIMISE)
    fewest = min(tables, key=lambda n: sum(e.individual == n for e in episodes))
    ran = [e.problem for e in episodes if e.individual == fewest]
    assert ran == ["a/2", "a/5", "b/0", "b/3"]  # b/0 as it comes


def test_a_race_learns_from_who_stays_and_a_record_of_them_is_the_same():
    rng = np.random.default_rng(1)
    live = RacingEvaluator(ScriptedEvaluator(TASKS, table_rule), TWO)
    record = []
    for batch in range(6):
        tables = {f"{batch}/{n}": t for n, t in drawn(rng)[0].items()}
        again = RacingEvaluator(
            ScriptedEvaluator(TASKS, table_rule), TWO, record=record
        )
        one, other = (
            racing.evaluate(tables, Split.OPTIMISE).episodes for racing in (live, again)
        )
        assert one == other
        record += [Verdict(e.individual, e.task, e.problem, e.score) for e in one]
    assert live._order() != {t.name: [p.id for p in t.problems(None)] for t in TASKS}


def test_nobody_races_alone_on_other_splits_or_on_chosen_problems():
    tables, _ = drawn(np.random.default_rng(2))
    inner = ScriptedEvaluator(TASKS, table_rule)
    racing = RacingEvaluator(inner, TWO)
    one = {"child/0": tables["child/0"]}
    assert len(racing.evaluate(one, Split.OPTIMISE).episodes) == 14
    assert len(racing.evaluate(tables, Split.TEST).episodes) == 8 * 14
    few = racing.evaluate(tables, Split.OPTIMISE, problems={"a": ["a/1"]})
    assert len(few.episodes) == 8 and len(inner.calls) == 3


def test_smooth_scores_break_ties():
    """All verdicts are equal; child 5 is the likeliest, then child 2."""
    tables = {f"child/{i}": i for i in range(8)}
    likely = {5: -0.1, 2: -0.2}
    inner = ScriptedEvaluator(
        TASKS, lambda *_: 1.0, lambda i, task, index: likely.get(i, -0.5) - index
    )
    racing = RacingEvaluator(inner, TWO)
    evaluation, scoring = racing.evaluate_and_score(tables, Split.OPTIMISE)
    episodes, cost = evaluation
    stayed = {n: tables[n] for n in ("child/2", "child/5")}
    counts = {n: sum(e.individual == n for e in episodes) for n in tables}
    assert {n for n, count in counts.items() if count == 14} == set(stayed)
    assert cost.tokens_forward == 2 * len(episodes)
    assert scoring.cost.tokens_forward == len(scoring.scores) == len(episodes)
    want = inner.score(stayed, Split.OPTIMISE)
    assert [s for s in scoring.scores if s.individual in stayed] == want.scores
    assert racing.score(stayed, Split.OPTIMISE) == want
    # Verdicts come first: the likeliest does not pass a better one.
    better = {"child/0": 1.0}
    inner = ScriptedEvaluator(
        TASKS, lambda i, *_: float(i == 0), lambda i, *_: likely.get(i, -0.5)
    )
    evaluation, _ = RacingEvaluator(inner, TWO).evaluate_and_score(
        tables, Split.OPTIMISE
    )
    counts = {n: sum(e.individual == n for e in evaluation.episodes) for n in tables}
    assert {n for n, count in counts.items() if count == 14} == {*better, "child/5"}
