"""One statement, judged by rows and tables."""

import dataclasses
import re

import pytest

from cycleqd_jax.sandbox.base import Ending, Execution
from cycleqd_jax.tasks.base import Outcome, Split, TaskSettings
from cycleqd_jax.tasks.pocket import db_tables
from cycleqd_jax.tasks.pocket.db import PocketDb, PocketDbHard
from cycleqd_jax.tasks.pocket.db_schemas import SCHEMAS
from cycleqd_jax.tasks.pocket.db_tables import Effect, same_effect


@pytest.fixture(scope="module")
def db():
    return PocketDb(TaskSettings(0, {Split.TEST: 128}))


def judged(db, play, problem, statements):
    return [r.outcome for r in play(db, [(problem, [s]) for s in statements])]


def apply(columns, database, statement):
    """The effect of one statement."""
    with db_tables.Filled(columns, database) as filled:
        return filled.apply(statement)


def words(problem):
    """Table, label, group, first and second number column."""
    return (problem.data["table"], *problem.data["columns"])


def test_other_right_ways_are_right(db, play, find_problem):
    problem = find_problem(db, "above")
    right = problem.answer
    table, label, group, *_ = words(problem)
    ways = [
        right.rstrip(";"),
        right.lower(),
        right.replace("SELECT ", f"SELECT {table}."),
        right.replace(";", f" ORDER BY {group} DESC;"),
        f"WITH t AS ({right.rstrip(';')}) SELECT {label} AS other FROM t",
        right + " -- done",
    ]
    assert judged(db, play, problem, ways) == [Outcome.SOLVED] * len(ways)


def test_order_counts_only_where_it_was_demanded(db, play, find_problem):
    problem = find_problem(db, "sorted")
    assert problem.data["ordered"]
    reverse = problem.answer.replace(";", " DESC;")
    unordered = problem.answer.partition(" ORDER")[0]
    assert judged(db, play, problem, [reverse, unordered]) == [Outcome.WRONG] * 2


def test_a_query_must_leave_the_table_alone(db, play, find_problem):
    problem = find_problem(db, "group")
    table, label, *_ = words(problem)
    condition = problem.answer.rstrip(";").partition("WHERE ")[2]
    deletes = f"DELETE FROM {table} WHERE {condition} RETURNING {label}"
    assert judged(db, play, problem, [deletes]) == [Outcome.WRONG]


def test_changes_count_whole_tables(db, play, find_problem):
    problem = find_problem(db, "delete_one")
    table, label, *_ = words(problem)
    statements = [
        problem.answer.replace("=", "IN (").replace(";", ");"),
        f"DELETE FROM {table};",
        f"UPDATE {table} SET {label} = '';",
        f"DROP TABLE {table};",
        f"SELECT * FROM {table};",
    ]
    verdicts = judged(db, play, problem, statements)
    assert verdicts == [Outcome.SOLVED] + [Outcome.WRONG] * 4


HOSTILE = [
    "I cannot do that.",
    ";",
    "-- nothing",
    "SELECT 1; SELECT 2;",
    "{right} {right}",
    "SELECT load_extension('evil');",
    "ATTACH 'main.py' AS other;",
    "PRAGMA writable_schema = 1;",
    "VACUUM INTO 'copy';",
    "BEGIN;",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT n FROM t;",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) "
    "SELECT COUNT(*) FROM t;",
    "SELECT zeroblob(100000000);",
    "SELECT x'ff';",
    "SELECT randomblob(5), 1e999, -1e999;",
    "SELECT readfile('main.py');",
    "'''; raise SystemExit #",
    "SELECT char(55296);",
]


def test_hostile_statements_are_wrong_and_nothing_worse(db, play, find_problem):
    problem = find_problem(db, "best")
    statements = [s.replace("{right}", problem.answer) for s in HOSTILE]
    results = play(db, [(problem, [s]) for s in statements])
    for statement, result in zip(statements, results, strict=True):
        assert result.outcome is Outcome.WRONG, statement
        assert result.explanation and "\n" not in result.explanation
        result.explanation.encode()


class Forging:
    """A sandbox whose program writes what an attacker would like it to."""

    def __init__(self, execution, output):
        self._execution, self._output = execution, output

    async def run(self, program):
        return dataclasses.replace(self._execution, stdout=self._output)


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"[]",
        b"null",
        b"[1, 2]",
        b'[{"tuple": [[], []]}]',
        b'[{"tuple": [[], []]}, {"tuple": [[], []]}]',
        b'[{"tuple": [[[1]], []]}, {"tuple": [[], []]}]',
        b'[{"tuple": [[{"tuple": [[1]]}], []]}, {"tuple": [[], []]}]',
        b'[{"tuple": [[{"tuple": [1e999, NaN]}], []]}, {"tuple": [[], []]}]',
        b'[{"tuple": [5, 6]}, {"tuple": [5, 6]}]',
        b'{"other": "a\\nb\\ud800"}',
    ],
)
def test_forged_output_is_wrong(db, in_sandbox, script, find_problem, output):
    sandbox = Forging(Execution(Ending.EXITED, 0, b"", b""), output)
    problem = find_problem(db, "best")
    result = in_sandbox(lambda _: db.run(problem, script("SELECT 1"), sandbox))
    assert result.outcome is Outcome.WRONG
    result.explanation.encode()


def test_the_program_does_not_hold_the_expectation(db, in_sandbox, find_problem):
    problem = find_problem(db, "average_group")
    programs = []

    class Watching:
        def __init__(self, inner):
            self.inner = inner

        async def run(self, program):
            programs.append(program)
            return await self.inner.run(program)

    in_sandbox(lambda sandbox: db.judge(problem, "SELECT 1;", Watching(sandbox)))
    everything = repr(programs)
    for effect in problem.data["expected"]:
        ((average,),) = effect.rows
        assert str(average) not in everything or average == int(average)


@pytest.mark.parametrize(
    ("expected", "actual", "ordered", "equal"),
    [
        ([(1,), (2,)], [(2,), (1,)], False, True),
        ([(1,), (2,)], [(2,), (1,)], True, False),
        ([(1,), (1,)], [(1,)], False, False),
        ([(1, "a")], [("a", 1)], False, False),
        ([(2,)], [(2.0,)], True, True),
        ([(1 / 3,)], [(0.33333333,)], False, True),
        ([(1 / 3,)], [(0.333,)], False, False),
        ([(1,)], [("1",)], False, False),
        ([(None,)], [(0,)], False, False),
    ],
)
def test_comparison_of_rows(expected, actual, ordered, equal):
    effects = Effect(tuple(expected), ()), Effect(tuple(actual), ())
    assert same_effect(*effects, ordered=ordered) is equal


def test_tables_tell_near_misses_apart(db):
    """Statements with one mistake do something else, but for a few that cannot."""
    survivors = mutants = 0
    for problem in db.problems(Split.TEST):
        schema = next(s for s in SCHEMAS if s.table == problem.data["table"])
        data = problem.data
        for mutant in db_tables.mutants(problem.answer, schema):
            columns = {data["table"]: data["columns"]}
            effects = [apply(columns, (rows,), mutant) for rows in data["tables"]]
            mutants += 1
            survivors += all(
                effect is not None
                and same_effect(expected, effect, ordered=data["ordered"])
                for expected, effect in zip(data["expected"], effects, strict=True)
            )
    assert mutants > 400
    assert survivors / mutants < 0.01


def test_no_expectation_is_met_by_doing_nothing(db):
    for problem in db.problems(Split.TEST):
        for rows, effect in zip(
            problem.data["tables"], problem.data["expected"], strict=True
        ):
            assert effect.rows or not db_tables.same_rows(rows, effect.table)


@pytest.fixture(scope="module")
def pairs():
    return PocketDbHard(TaskSettings(0, {Split.TEST: 128}))


def share_right(problems, change):
    """The share of changed answers that do on all databases what the right one does."""
    verdicts = []
    for problem in problems:
        changed = change(problem.answer)
        if changed == problem.answer:
            continue
        effects = [
            apply(problem.data["columns"], database, changed)
            for database in problem.data["databases"]
        ]
        verdicts.append(
            all(
                effect is not None
                and same_effect(expected, effect, ordered=problem.data["ordered"])
                for expected, effect in zip(
                    problem.data["expected"], effects, strict=True
                )
            )
        )
    assert len(verdicts) > 8
    return sum(verdicts) / len(verdicts)


@pytest.mark.parametrize(
    ("part", "instead", "limit"),
    [
        (r" WHERE [^()]*?(?= GROUP| ORDER|;|\))", "", 0),  # no condition
        (r" WHERE \w+ (NOT )?IN \([^)]*\)", "", 0),  # no subquery
        (r"COUNT\(\*\)|SUM|AVG", "MAX", 0.05),
        (r" > ", " < ", 0),
        (r" GROUP BY \w+", "", 0.05),
        (r" HAVING [^;]*?(?=;)", "", 0.05),
        (r"NOT IN", "IN", 0),
    ],
)
def test_wrong_queries_on_pairs_of_tables_are_wrong(pairs, part, instead, limit):
    problems = pairs.problems(Split.TEST)
    assert share_right(problems, lambda right: re.sub(part, instead, right)) <= limit


def test_right_queries_on_pairs_of_tables_have_several_forms(pairs, play, find_problem):
    problem = find_problem(pairs, "join_group")
    (first, parent), (second, child) = problem.data["columns"].items()
    columns = f"{child[1]}, {child[2]}"
    condition = problem.answer.rstrip(";").partition("WHERE ")[2]
    ways = [
        f"SELECT {columns} FROM {first} JOIN {second} ON {parent[0]} = {child[0]} "
        f"WHERE {condition}",
        f"SELECT {columns} FROM {first} p, {second} c "
        f"WHERE p.{parent[0]} = c.{child[0]} AND p.{condition}",
        f"SELECT {columns} FROM {second} "
        f"WHERE {child[0]} IN (SELECT {parent[0]} FROM {first} WHERE {condition})",
    ]
    wrong = [f"SELECT {columns} FROM {second}", f"DELETE FROM {second}"]
    verdicts = judged(pairs, play, problem, [*ways, *wrong])
    assert verdicts == [Outcome.SOLVED] * 3 + [Outcome.WRONG] * 2


def test_pairs_of_tables_tell_mistakes_apart(pairs):
    """Most that remain are off by one at a sum, which random rows seldom hit."""
    survivors = mutants = 0
    for problem in pairs.problems(Split.TEST):
        schema = next(
            s for s in SCHEMAS if s.table == next(iter(problem.data["columns"]))
        )
        for mutant in db_tables.mutants(problem.answer, schema):
            effects = [
                apply(problem.data["columns"], database, mutant)
                for database in problem.data["databases"]
            ]
            mutants += 1
            survivors += all(
                effect is not None
                and same_effect(expected, effect, ordered=problem.data["ordered"])
                for expected, effect in zip(
                    problem.data["expected"], effects, strict=True
                )
            )
    assert mutants > 500
    assert survivors / mutants < 0.05
