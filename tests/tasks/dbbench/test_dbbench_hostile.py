"""What a model's statements cannot do, on a private server and on one that is given."""

import asyncio
import time

import pytest

from cycleqd_jax.tasks.dbbench.database import Database
from cycleqd_jax.tasks.dbbench.table import Table

TABLE = Table("notes", ("a", "b"), (("1", "x"), ("2", "y")))
OTHER = Table("secrets", ("s",), (("hidden",),))

FORBIDDEN = [
    "SELECT * FROM mysql.user",
    "SELECT * FROM mysql.global_priv",
    "USE mysql",
    "CREATE DATABASE mine",
    "DROP DATABASE {other}",
    "SELECT * FROM {other}.secrets",
    "INSERT INTO {other}.secrets VALUES ('x')",
    "CREATE VIEW v AS SELECT * FROM {other}.secrets",
    "CREATE TABLE copy AS SELECT * FROM {other}.secrets",
    "RENAME TABLE notes TO {other}.notes",
    "CREATE TRIGGER {other}.t BEFORE INSERT ON secrets FOR EACH ROW SET @a = 1",
    "SHOW TABLES FROM {other}",
    "CREATE USER me",
    "DROP USER '{user}'@localhost",
    "SET PASSWORD FOR '{user}'@localhost = PASSWORD('x')",
    "ALTER USER '{user}'@localhost ACCOUNT LOCK",
    "GRANT ALL ON {other}.* TO CURRENT_USER()",
    "GRANT ALL ON *.* TO CURRENT_USER()",
    "GRANT SELECT ON notes TO PUBLIC",
    "SELECT 1 INTO OUTFILE '/tmp/cycleqd-hostile'",
    "SELECT 1 INTO DUMPFILE '/tmp/cycleqd-hostile'",
    "LOAD DATA INFILE '/etc/passwd' INTO TABLE notes",
    "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE notes",
    "SET GLOBAL max_connections = 1",
    "SET GLOBAL general_log_file = '/tmp/cycleqd-hostile'",
    "SET GLOBAL max_statement_time = 0.001",
    "SHUTDOWN",
    "FLUSH TABLES WITH READ LOCK",
    "FLUSH PRIVILEGES",
    "CREATE FUNCTION sys_exec RETURNS INT SONAME 'x.so'",
    "INSTALL SONAME 'ha_connect'",
    "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST '127.0.0.1')",
    "CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO SELECT 1",
    "CREATE DEFINER=admin@localhost VIEW v AS SELECT 1",
    "CREATE DEFINER=root@localhost FUNCTION f() RETURNS INT RETURN 1",
    "SET ROLE admin",
    "KILL 1",
    "CHANGE MASTER TO MASTER_HOST='127.0.0.1'",
    "BINLOG 'AAAA'",
    "SHOW MASTER STATUS",
]


@pytest.fixture
def play(with_live_server):
    """Awaits what a function makes of two databases, the model's and another."""

    def await_all(function, **options):
        async def main(live):
            mine, other = Database(live, TABLE), Database(live, OTHER)
            for one in (mine, other):
                await one.execute("SELECT 1")
            return await function(mine, other)

        return with_live_server(main, **options)

    return await_all


def test_everything_outside_the_problem_is_refused(play, ask):
    accounts = "SELECT * FROM mysql.global_priv WHERE User NOT LIKE 'cycleqd-%'"
    before = ask(accounts)

    async def function(mine, other):
        name = f"`{other._slot.database}`"
        answers = {}
        for sql in FORBIDDEN:
            filled = sql.format(other=name, user=other._slot.user)
            answers[sql] = await mine.execute(filled)
        return answers, await mine.state(), await mine.execute("SELECT * FROM notes")

    answers, state, rows = play(function)
    refused = ("1044 ", "1045 ", "1142 ", "1143 ", "1227 ", "1094 ", "1095 ", "4166 ",
               "1410 ", "1959 ", "1370 ", "1049 ", "1064 ", "1290 ")  # fmt: skip
    passed = {s: a for s, a in answers.items() if not a.startswith(refused)}
    assert not passed
    assert rows == "[('1', 'x'), ('2', 'y')]"
    assert state.startswith("[('")
    assert ask(accounts) == before


def test_other_problems_are_not_even_listed(play):
    async def function(mine, other):
        return [
            await mine.execute(sql)
            for sql in (
                "SHOW DATABASES",
                "SELECT COUNT(*) FROM information_schema.TABLES "
                "WHERE TABLE_NAME = 'secrets'",
                # An earlier connection of its own may be closing still.
                "SELECT COUNT(DISTINCT USER) FROM information_schema.PROCESSLIST",
                "SELECT LOAD_FILE('/etc/passwd')",
                "SELECT COUNT(*) FROM information_schema.INNODB_SYS_TABLESPACES",
            )
        ]

    databases, tables, processes, file, spaces = play(function)
    assert databases in (
        "[('information_schema',), ('notes',)]",
        "[('notes',), ('information_schema',)]",
    )
    assert tables == "[(0,)]"
    assert processes == "[(1,)]"
    assert file == "[(None,)]"
    assert spaces.startswith("1227 (42000)")


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TEMPORARY TABLE notes (a TEXT, b TEXT)"],
        ["SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES', group_concat_max_len = 4"],
        ["CREATE FUNCTION MD5(x TEXT) RETURNS TEXT RETURN 'a'"],
        ["CREATE FUNCTION GROUP_CONCAT(x TEXT) RETURNS TEXT RETURN 'a'"],
        ["LOCK TABLES notes WRITE"],
        ["START TRANSACTION; DELETE FROM notes; SELECT SLEEP(0)"],
        ["SELECT * FROM notes FOR UPDATE"],
        ["SELECT GET_LOCK('x', 1)"],
        ["ALTER TABLE notes ADD COLUMN c TEXT", "UPDATE notes SET c = 'z'"],
        ["SET PASSWORD = PASSWORD('mine')"],
        ["ALTER USER CURRENT_USER() IDENTIFIED BY 'mine'"],
        ["SET DEFAULT ROLE NONE"],
    ],
    ids=lambda statements: statements[0][:24],
)
def test_nothing_but_the_rows_changes_the_state(play, statements):
    async def function(mine, other):
        before = await mine.state()
        for sql in statements:
            await mine.execute(sql)
        return (
            before,
            await mine.state(),
            await mine.execute("SELECT COUNT(*) FROM notes"),
        )

    before, after, count = play(function)
    assert after == before
    assert count == "[(2,)]"


def test_a_view_in_place_of_the_table_is_read_with_the_model_s_rights(play):
    async def function(mine, other):
        name = f"`{other._slot.database}`"
        answers = [
            await mine.execute(sql.format(other=name))
            for sql in (
                "DROP TABLE notes",
                "CREATE TABLE stolen (s TEXT)",
                # With the rights of whoever calls it: an administrator's would do.
                "CREATE FUNCTION steal() RETURNS TEXT SQL SECURITY INVOKER BEGIN "
                "INSERT INTO stolen SELECT s FROM {other}.secrets; RETURN 'x'; END",
                "CREATE SQL SECURITY INVOKER VIEW notes AS SELECT steal() a, 'b' b",
            )
        ]
        return answers, await mine.state(), await mine.execute("SELECT * FROM stolen")

    answers, state, stolen = play(function)
    assert answers == ["[]"] * 4
    assert state.startswith("1356 (HY000)") or state.startswith("1142 (42000)")
    assert stolen == "[]"


def test_a_model_may_drop_its_database_and_gets_nothing_by_it(play):
    async def function(mine, other):
        name = mine._slot.database
        answers = [
            await mine.execute(f"DROP DATABASE `{name}`"),
            await mine.execute("SELECT 1"),
            await mine.state(),
        ]
        return answers, await other.execute("SELECT * FROM secrets")

    answers, other = play(function)
    unknown = "1049 (42000): Unknown database 'notes'"
    assert answers == ["[]", unknown, unknown]
    assert other == "[('hidden',)]"


def test_a_model_cannot_end_the_connections_of_others(play, ask):
    async def function(mine, other):
        slow = asyncio.ensure_future(other.execute("SELECT s, SLEEP(0.5) FROM secrets"))
        await asyncio.sleep(0.2)
        numbers = [n for (n,) in ask("SELECT ID FROM information_schema.PROCESSLIST")]
        answers = [await mine.execute(f"KILL {number}") for number in numbers]
        return answers, await slow

    answers, slow = play(function)
    assert len(answers) >= 3
    # Refused, or gone by itself: it was the one that asked.
    assert all(answer.startswith(("1095 ", "1094 ")) for answer in answers)
    assert slow == "[('hidden', 0)]"


def test_a_lock_of_one_episode_does_not_stop_another(play):
    async def function(mine, other):
        sql = "SELECT GET_LOCK('x', 5), SLEEP(1) FROM notes FOR UPDATE"
        held = asyncio.ensure_future(mine.execute(sql))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        rows = await other.execute("SELECT * FROM secrets FOR UPDATE")
        took_s = time.monotonic() - began
        return rows, took_s, await held

    rows, took_s, held = play(function)
    assert rows == "[('hidden',)]"
    assert took_s < 1
    assert held == "[(1, 0), (1, 0)]"


def test_a_model_may_end_its_own_connection(play):
    async def function(mine, other):
        return [
            await mine.execute("KILL CONNECTION_ID()"),
            await mine.execute("SELECT 1"),
        ]

    killed, after = play(function)
    assert killed.startswith(("1927 (70100)", "2013 (HY000)"))
    assert after == "[(1,)]"


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("SELECT SLEEP(1000)", "[(1,)]"),
        ("SELECT BENCHMARK(100000000000, MD5('a'))", "[(0,)]"),
        (
            "SELECT COUNT(*) FROM information_schema.COLUMNS a, "
            "information_schema.COLUMNS b, information_schema.COLUMNS c",
            None,
        ),
    ],
    ids=["sleep", "benchmark", "product"],
)
def test_a_statement_that_does_not_end_is_ended(play, sql, value):
    async def function(mine, other):
        began = time.monotonic()
        answer = await mine.execute(sql)
        return answer, time.monotonic() - began, await mine.execute("SELECT 1")

    answer, took_s, after = play(function, statement_s=0.5)
    # Some functions end early with a value where a statement is stopped.
    assert answer.startswith("1969 (70100): Query execution was ") or answer == value
    assert took_s < 5
    assert after == "[(1,)]"


def test_a_statement_that_fills_the_disk_is_ended(play, monkeypatch):
    monkeypatch.setattr("cycleqd_jax.tasks.dbbench.database._LARGEST", 2**24)
    monkeypatch.setattr("cycleqd_jax.tasks.dbbench.database._WATCH_S", 0.1)

    async def function(mine, other):
        answer = await mine.execute(
            "INSERT INTO notes SELECT REPEAT('x', 60000), '' FROM "
            "information_schema.COLUMNS a, information_schema.COLUMNS b"
        )
        rows = await mine.execute("SELECT COUNT(*) FROM notes")
        return answer, rows, await other.execute("SELECT * FROM secrets")

    answer, rows, other = play(function)
    assert answer.startswith(("1317 (70100)", "1927 (70100)", "2013 (HY000)"))
    assert rows == "[(2,)]"
    assert other == "[('hidden',)]"


def test_a_session_that_lifts_its_limit_is_ended_too(play, monkeypatch):
    monkeypatch.setattr("cycleqd_jax.tasks.dbbench.session.GRACE_S", 0.5)
    monkeypatch.setattr("cycleqd_jax.tasks.dbbench.database._WATCH_S", 0.1)

    async def function(mine, other):
        began = time.monotonic()
        answer = await mine.execute("SET max_statement_time = 0; SELECT SLEEP(100)")
        return answer, time.monotonic() - began, await mine.execute("SELECT 1")

    answer, took_s, after = play(function, statement_s=0.5)
    assert took_s < 5
    assert not answer.startswith("[")
    assert after == "[(1,)]"


def test_texts_in_another_charset_are_an_error_and_no_crash(play):
    async def function(mine, other):
        return [
            await mine.execute(sql)
            for sql in (
                "SET NAMES latin1; SELECT 'é'",
                "CREATE PROCEDURE p() BEGIN SET NAMES latin1; "
                "SELECT CONVERT('é' USING latin1) AS x; END",
                "CALL p()",
                "SELECT 1",
            )
        ]

    answers = play(function)
    assert answers[0].startswith("Commands out of sync")
    assert "codec can't decode" in answers[2]
    assert answers[3] == "[(1,)]"


def test_tables_in_memory_that_are_full_are_no_failure_of_the_server(play):
    async def function(mine, other):
        return [
            await mine.execute(sql)
            for sql in (
                "CREATE TABLE m (c CHAR(250)) ENGINE=MEMORY MAX_ROWS=10",
                "SET max_heap_table_size = 16384; SELECT 1",
                "INSERT INTO m SELECT REPEAT('x', 250) FROM "
                "information_schema.COLUMNS a, information_schema.COLUMNS b",
                "SELECT 1",
            )
        ]

    answers = play(function)
    assert answers[2].startswith("1114 (HY000)")
    assert answers[3] == "[(1,)]"
