"""Statements as models write them, with what a MariaDB server answered.

`tests/proofs/compare_db_backends.py --record` asks a server anew.
"""

import json
import pathlib

import pytest

from cycleqd_jax.tasks.dbbench.sqlite_engine import Engine
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError

RECORDING = json.loads(pathlib.Path(__file__).with_name("recorded.json").read_text())
NOW = "2026-11-22 10:00:00"
# Where the embedded database says something else than MariaDB, and why.
KNOWN = {
    "SELECT Player, LAG(Year) OVER (ORDER BY Rank + 0), LEAD(Year, 1, 0) OVER (ORDER "
    "BY Rank + 0) FROM `Player Stats` ORDER BY Rank + 0": "MySQL has a default there",
    "SELECT 0.1 + 0.2, 0.1e0 + 0.2e0, 1/3 + 1/3, (1/3) * 3, 1 - 0.9, 100 * 1.1, '0.1' "
    "+ '0.2', 1e308 * 10": "a server names the expression that is out of range",
    "SELECT Player FROM `Player Stats` WHERE Year = (SELECT Player, Year FROM `Player "
    "Stats`)": "MySQL's words, 1241",
    "SELECT Player FROM `Player Stats` WHERE Player IN (SELECT Player FROM `Player "
    "Stats` LIMIT 1)": "MySQL's words, 1235",
    "SELECT * FROM (SELECT Player FROM `Player Stats`)": "MySQL's words, 1248",
    "SELECT ANY_VALUE(1)": "a function of MySQL's",
    "EXPLAIN SELECT * FROM `Player Stats`": "there is no plan of a server's",
    "UPDATE `Olympic Medals` SET Rating = 'x'": "MySQL's words, 1366",
    "ALTER TABLE `Olympic Medals` DROP COLUMN Rating": "MySQL's words, 1091",
    "INSERT INTO t2 (name, day) VALUES ('x', 'not a date')": "MySQL's words, 1292",
    "SELECT TIME_TO_SEC(Time), CAST(Time AS TIME) FROM games": "an integer in MySQL",
    "UPDATE standings SET Date = YEAR(Date) WHERE Team = 'Bears'": "a server names the "
    "column and the row",
    # The server was asked for MySQL 8's mode, which is not MariaDB's own.
    "SELECT Team, Player FROM `Player Stats` GROUP BY Team ORDER BY Team": "1055",
    "SELECT Player, MAX(Year) FROM `Player Stats`": "1140",
    "SELECT Player FROM `Player Stats` HAVING Player LIKE 'I%'": "1463",
    "SELECT SUM(price), AVG(price), MAX(day), price * 2, day + INTERVAL 1 DAY, day > "
    "'2020-06-01', YEAR(day), price = 1.5, ratio * 3 FROM t2 GROUP BY id": "1055",
}


def play(engine: Engine, table: dict, statements):
    """The texts that come of statements, and the state of the table."""
    state = engine.open(table["name"], table["columns"], table["rows"])
    texts = []
    for statement in statements:
        try:
            text, after = engine.run(state, statement, NOW, 1)
            state = after or state
        except MySQLError as error:
            text = str(error)
        texts.append(text)
    return texts, engine.hash(state, table["columns"])


@pytest.mark.parametrize("case", RECORDING["cases"], ids=lambda case: case["table"])
def test_statements_say_what_a_server_said(case):
    statements = [statement for statement, _ in case["statements"]]
    table = RECORDING["tables"][case["table"]]
    texts, state = play(Engine(Flavour.MARIADB), table, statements)
    differ = [
        (statement, text, recorded)
        for (statement, recorded), text in zip(case["statements"], texts, strict=True)
        if text != recorded
    ]
    unexpected = [d for d in differ if d[0] not in KNOWN]
    assert unexpected == []
    assert {d[0] for d in differ} == KNOWN.keys() & set(statements)
    assert state == case["state"]


PEOPLE = {
    "name": "people",
    "columns": ["name", "rank", "time"],
    "rows": [
        ["Ana", "1", "9:59"],
        ["ana ", "2", "10:01"],
        ["ÁNA", "3", "1:30"],
        ["Bo\xa0Lee", "10", "(1:00)"],
        ["Østby", "x", ""],
    ],
}
# What MySQL 8 says and MariaDB does not.
MYSQL8 = [
    # Trailing spaces count, accents and kinds of spaces do not.
    ("SELECT COUNT(*) FROM people WHERE name = 'ana'", "[(2,)]"),
    ("SELECT 2 UNION SELECT 1 UNION SELECT 2", "[(2,), (1,)]"),
    ("SELECT name FROM people WHERE name = 'bo lee'", "[('Bo\\xa0Lee',)]"),
    ("SELECT name FROM people WHERE name = 'ostby'", "[('Østby',)]"),
    # Signs come before digits, those before letters.
    (
        "SELECT time FROM people ORDER BY time",
        "[('',), ('(1:00)',), ('1:30',), ('10:01',), ('9:59',)]",
    ),
    # RANK is reserved.
    (
        "SELECT rank FROM people",
        "1064 (42000): You have an error in your SQL syntax; check the manual that "
        "corresponds to your MySQL server version for the right syntax to use near "
        "'FROM people' at line 1",
    ),
    # All that is selected must be grouped.
    (
        "SELECT name, COUNT(*) FROM people",
        "1140 (42000): In aggregated query without GROUP BY, expression #1 of SELECT "
        "list contains nonaggregated column 'people.people.name'; this is incompatible "
        "with sql_mode=only_full_group_by",
    ),
    (
        "SELECT name, `rank` FROM people GROUP BY name",
        "1055 (42000): Expression #2 of SELECT list is not in GROUP BY clause and "
        "contains nonaggregated column 'people.people.rank' which is not functionally "
        "dependent on columns in GROUP BY clause; this is incompatible with "
        "sql_mode=only_full_group_by",
    ),
    ("SELECT name, MAX(`rank`) FROM people WHERE name = 'Østby'", "[('Østby', 'x')]"),
    # Groups come in the order of their first rows.
    (
        "SELECT LENGTH(time) AS n, COUNT(*) FROM people GROUP BY n",
        "[(4, 2), (5, 1), (6, 1), (0, 1)]",
    ),
    # What is no number is an error where data are changed, also by DELETE.
    (
        "DELETE FROM people WHERE `rank` = 3",
        "1292 (22007): Truncated incorrect DOUBLE value: 'x'",
    ),
    (
        "UPDATE people SET name = 'y' WHERE `rank` > 2",
        "1292 (22007): Truncated incorrect DOUBLE value: 'x'",
    ),
    ("SELECT COUNT(*) FROM people WHERE `rank` > 2", "[(2,)]"),
    (
        "UPDATE people SET name = (SELECT MAX(name) FROM people)",
        "1093 (HY000): You can't specify target table 'people' for update in FROM "
        "clause",
    ),
]


def test_mysql_8_differs_from_mariadb():
    statements = [statement for statement, _ in MYSQL8]
    engine = Engine(Flavour.MYSQL8)
    texts, state = play(engine, PEOPLE, statements)
    assert list(zip(statements, texts, strict=True)) == MYSQL8
    assert state == play(engine, PEOPLE, [])[1]


def test_nothing_but_tables_outlives_a_statement():
    engine = Engine(Flavour.MYSQL8)
    statements = [
        "CREATE TEMPORARY TABLE t (a INT)",
        "SELECT * FROM t",
        "SET @x = 1",
        "SELECT @x",
        "START TRANSACTION",
        "DELETE FROM people",
        "ROLLBACK",
        "SELECT COUNT(*) FROM people",
    ]
    texts, _ = play(engine, PEOPLE, statements)
    assert texts == [
        "[]",
        "1146 (42S02): Table 'people.t' doesn't exist",
        "[]",
        "[(None,)]",
        "[]",
        "[]",
        "[]",
        "[(0,)]",
    ]


def test_of_several_statements_only_definitions_stay():
    sync = "Commands out of sync; you can't run this command now"
    texts, _ = play(
        Engine(Flavour.MYSQL8),
        PEOPLE,
        [
            "DELETE FROM people; SELECT 1",
            "SELECT COUNT(*) FROM people",
            "DELETE FROM people WHERE name = 'Østby'; CREATE TABLE t (a INT); "
            "DELETE FROM people; nonsense",
            "SELECT COUNT(*) FROM people",
            "SELECT * FROM t",
            "nonsense; DELETE FROM people",
            "SELECT 1;;  ; ",
        ],
    )
    assert texts[:5] == [sync, "[(5,)]", sync, "[(4,)]", "[]"]
    assert texts[5].startswith("1064 (42000)")
    assert texts[6] == "[(1,)]"


def test_a_table_without_its_columns_has_no_state():
    engine = Engine(Flavour.MYSQL8)
    state = engine.open("t", ["a", "b"], [["1", "2"]])
    _, renamed = engine.run(state, "ALTER TABLE t CHANGE a c TEXT", NOW, 1)
    with pytest.raises(MySQLError, match=r"1054.*Unknown column 'a' in 'field list'"):
        engine.hash(renamed, ["a", "b"])
    _, dropped = engine.run(state, "DROP TABLE t", NOW, 1)
    with pytest.raises(MySQLError, match=r"1146 .42S02.: Table 't.t' doesn't exist"):
        engine.hash(dropped, ["a", "b"])
    _, empty = engine.run(state, "DELETE FROM t", NOW, 1)
    assert engine.hash(empty, ["a", "b"]) == "[(None,)]"
