"""Databases on real servers: results as text, sessions, what is left behind."""

import asyncio
import re
import time

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.base import TaskSettings
from cycleqd_jax.tasks.dbbench import names
from cycleqd_jax.tasks.dbbench.database import Database
from cycleqd_jax.tasks.dbbench.live_server import LiveServer
from cycleqd_jax.tasks.dbbench.servers import ExternalServer
from cycleqd_jax.tasks.dbbench.table import OUT_OF_SYNC, Table
from cycleqd_jax.tasks.dbbench.task import DBBench

TABLE = Table(
    "Cities of Europe",
    ("Name", "Size in %", "it\\'s"),
    (("Berlin", 3_700_000, None), ('it\'s "\\Zürich"', 0.5, ""), ("😀", "1,5", "x")),
)
# What mysql-connector-python 8.0.32 with its C extension made of the same statements on
# MariaDB 10.11.
RECORDED = [
    ("SELECT 1.50, 1.5e0, 10/4, SUM(1), 1e16", "[(Decimal('1.50'), 1.5, "
     "Decimal('2.5000'), Decimal('1'), 1e+16)]"),
    ("SELECT NULL, TRUE, 18446744073709551615", "[(None, 1, 18446744073709551615)]"),
    ("SELECT DATE('2020-01-02'), TIMESTAMP('2020-01-02 03:04:05.5')",
     "[(datetime.date(2020, 1, 2), "
     "datetime.datetime(2020, 1, 2, 3, 4, 5, 500000))]"),
    ("SELECT TIME('-10:11:12.5'), TIME('100:00:00')",
     "[(datetime.timedelta(days=-1, seconds=49727, microseconds=500000), "
     "datetime.timedelta(days=4, seconds=14400))]"),
    ("SELECT CAST('abc' AS BINARY), x'41', b'101', COMPRESS(NULL)",
     "[(bytearray(b'abc'), bytearray(b'A'), bytearray(b'\\x05'), None)]"),
    ("SELECT 'it''s', 'a\"b', 'é😀', '\\n'", "[(\"it's\", 'a\"b', 'é😀', '\\n')]"),
    ("SELECT JSON_OBJECT('a', 1), MD5('a')",
     "[('{\"a\": 1}', '0cc175b9c0f1b6a831c399e269772661')]"),
    ("SELECT 'x' WHERE 1=0", "[]"),
    ("SELECT 1 UNION SELECT 2", "[(1,), (2,)]"),
    ("SELECT '%s', '%(a)s'", "[('%s', '%(a)s')]"),
    ("SELECT CAST('0000-00-00' AS DATE)", "[(None,)]"),
    ("CREATE TABLE u (s SET('b','a'), e ENUM('x'), t BIT(4), bl BLOB, j JSON, y YEAR)",
     "[]"),
    ("INSERT INTO u VALUES ('a,b', 'x', b'1010', 'z', '[1]', 2020)", "[]"),
    ("SELECT * FROM u", "[({'a', 'b'}, 'x', 10, b'z', b'[1]', 2020)]"),
    ("", "[]"),
    (";", "1065 (42000): Query was empty"),
    ("-- nothing", "[]"),
    ("SELECT 1;", "[(1,)]"),
    ("SELECT 1; SELECT 2", OUT_OF_SYNC),
    ("SELECT * FROM nothing",
     "1146 (42S02): Table 'Cities of Europe.nothing' doesn't exist"),
    ("SELECT nothing", "1054 (42S22): Unknown column 'nothing' in 'SELECT'"),
    ("SELECT DATABASE()", "[('Cities of Europe',)]"),
    ("SELECT '\ud800'", "'utf-8' codec can't encode character '\\ud800' in position 8: "
     "surrogates not allowed"),
    ("XA START 'x'", "XAER_RMFAIL: The command cannot be executed when global "
     "transaction is in the  ACTIVE state"),
    ("SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT='hi'", "1644 (45000): hi"),
    ("LOAD DATA INFILE '/etc/passwd' INTO TABLE u", "1045 (28000): "),
]  # fmt: skip


# What becomes of a statement that names its database `T`; its table has a column `a`.
NAMED = [
    ("SELECT T.a FROM T.T", "SELECT T.a FROM `db`.T"),
    ("SELECT T.T.a FROM T, `T`.`T` x", "SELECT `db`.T.a FROM T, `db`.`T` x"),
    ("INSERT INTO T.T VALUES ('T.T')", "INSERT INTO `db`.T VALUES ('T.T')"),
    ("SELECT EXTRACT(YEAR FROM T.a) -- T.T", "SELECT EXTRACT(YEAR FROM T.a) -- T.T"),
    ("USE T;", "USE `db`;"),
    ("SHOW TABLES FROM T", "SHOW TABLES FROM `db`"),
    ("SHOW COLUMNS FROM T", "SHOW COLUMNS FROM T"),
    ("SHOW COLUMNS FROM T FROM T", "SHOW COLUMNS FROM T FROM `db`"),
    ("DROP DATABASE IF EXISTS T", "DROP DATABASE IF EXISTS `db`"),
    ("DROP TABLE IF EXISTS T", "DROP TABLE IF EXISTS T"),
    ("SET @T.T = 1; SELECT `x T.T`, 'it''s T.T', \"T.T", None),
    ("/* T.T */ SELECT T.T.a -- T.T\n, '\\'T.T' # T.T",
     "/* T.T */ SELECT `db`.T.a -- T.T\n, '\\'T.T' # T.T"),
    ("SELECT T.T.a /* T.T.a", "SELECT `db`.T.a /* T.T.a"),
    ("/*! SELECT T.T.a */", "/*! SELECT `db`.T.a */"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "meant"), NAMED, ids=[s for s, _ in NAMED])
def test_a_database_is_known_by_the_name_of_its_table(written, meant):
    table = Table("T", ("a",), ())
    assert names.with_database(written, table, "db") == (meant or written)


@pytest.mark.parametrize("text", ["'", '"', "`", "/*", "/*/", "'\\", "--", "T.", "@",
                                  "EXISTS T "])  # fmt: skip
def test_a_statement_is_read_in_time_proportional_to_its_length(text):
    table = Table("T", ("a",), ())
    began = time.thread_time()
    names.with_database("T" + text * 50_000, table, "db")
    assert time.thread_time() - began < 2


def test_statements_that_name_their_database_are_run(backend_options, small_data, play):
    options = {**backend_options, "data": small_data()}
    task = DBBench(TaskSettings(options=options, download=False))
    lines = ["USE People", "DELETE FROM People.People LIMIT 1", ""]
    lines.append("SELECT People.People.Name FROM People.People")
    replies = [f"Action: Operation\n```sql\n{line}\n```\n" for line in lines]
    (result,) = play(task, [(task.problem(0), [*replies, "Action: Answer\n"])])
    assert result.feedback == ("[]", "[]", "[]", "[('Bob',)]")


@pytest.fixture
def with_database(with_live_server):
    """Awaits what a function makes of a database with a table."""

    def await_all(function, table: Table = TABLE, **options):
        async def main(live):
            database = Database(live, table)
            try:
                return await function(database)
            finally:
                await database.close()

        return with_live_server(main, **options)

    return await_all


@pytest.fixture
def said(with_database):
    """What a server says to statements, one after another."""

    def ask_all(*statements: str, **options) -> list[str]:
        async def play(database):
            return [await database.execute(sql) for sql in statements]

        return with_database(play, **options)

    return ask_all


def test_results_are_written_as_the_connector_writes_them(said):
    texts = said(*(sql for sql, _ in RECORDED))
    expected = [text for _, text in RECORDED]
    # Words of a refusal hold the account's name, which no other server has.
    assert texts[-1].startswith(expected.pop())
    assert texts[:-1] == expected


ROWS = (
    "[('Berlin', '3700000', 'None'), ('it\\'s \"\\\\Zürich\"', '0.5', ''), "
    "('😀', '1,5', 'x')]"
)


def test_the_table_is_as_it_was_given(said):
    assert said(f"SELECT * FROM `{TABLE.name}`") == [ROWS]


def test_a_server_may_be_reached_through_its_socket(server):
    async def main():
        live = LiveServer(ExternalServer(server.socket_url))
        try:
            database = Database(live, TABLE)
            return await database.execute(f"SELECT * FROM `{TABLE.name}`")
        finally:
            await live.aclose()

    assert asyncio.run(main()) == ROWS


def test_a_session_ends_with_its_statement(said):
    answers = said(
        "SET @a = 1",
        "SELECT @a",
        "SET SESSION sql_mode = 'ANSI_QUOTES'",
        'SELECT "text"',
        "CREATE TEMPORARY TABLE t (a INT)",
        "SELECT * FROM t",
        "START TRANSACTION",
        "INSERT INTO `Cities of Europe` VALUES ('a', 'b', 'c')",
        "ROLLBACK",
        "SELECT COUNT(*) FROM `Cities of Europe`",
    )
    assert answers[1] == "[(None,)]"
    assert answers[3] == "[('text',)]"
    assert answers[5].startswith("1146 (42S02)")
    assert answers[9] == "[(4,)]"


def test_of_several_statements_nothing_is_committed(said):
    answers = said(
        "INSERT INTO `Cities of Europe` VALUES ('a', 'b', 'c'); SELECT 1",
        "SELECT COUNT(*) FROM `Cities of Europe`",
        "SELEC; SELECT 1",
        "SELECT 1; SELEC",
    )
    assert answers[:2] == [OUT_OF_SYNC, "[(3,)]"]
    assert answers[2].startswith("1064 (42000)")
    assert answers[3] == OUT_OF_SYNC


@pytest.mark.parametrize(
    "columns", [("a", "A"), ("a", "")], ids=["twice", "without-name"]
)
def test_a_table_that_cannot_be_leaves_the_database_empty(said, columns):
    table = Table("t", columns, (("x", "y"),))
    (shown,) = said("SHOW TABLES", table=table)
    assert shown == "[]"


def test_long_results_are_cut_and_harm_nothing(said):
    rows = " UNION ALL ".join(["SELECT REPEAT('x', 1000) a"] * 100)
    many, alive = said(
        f"SELECT x.a FROM ({rows}) x, ({rows}) y, ({rows}) z", "SELECT 1"
    )
    assert 65_536 < len(many) < 70_000
    assert alive == "[(1,)]"


def _external(server, **options) -> LiveServer:
    return LiveServer(ExternalServer(server.url), **options)


def test_all_is_gone_afterwards(server):
    before = server.query("SHOW DATABASES")

    async def main():
        live = _external(server)
        try:
            await Database(live, TABLE).execute("SELECT 1")
        finally:
            await live.aclose()

    asyncio.run(main())
    assert server.query("SHOW DATABASES") == before
    assert not server.query("SELECT User FROM mysql.user WHERE User LIKE 'cycleqd%'")


def test_names_are_used_again_and_are_fresh(with_live_server):
    async def play(live):
        first = Database(live, TABLE)
        await first.execute("CREATE TABLE left_over (a INT)")
        await first.close()
        second = Database(live, TABLE)
        await second.execute("SELECT 1")
        assert second._slot == first._slot
        # A closed one does nothing to the one that has its name now.
        await first.close()
        return await second.execute("SHOW TABLES")

    assert with_live_server(play) == "[('Cities of Europe',)]"


def test_what_a_killed_run_left_is_dropped_and_a_living_one_keeps_its_own(server):
    async def main():
        living = _external(server)
        database = Database(living, TABLE)
        await database.execute("SELECT 1")
        try:
            server.query("CREATE DATABASE `cycleqd-0123456789ab-7-db`")
            server.query("CREATE USER 'cycleqd-0123456789ab-7-user'@'127.0.0.1'")
            server.query("CREATE DATABASE `cycleqd-mine`")  # of somebody else
            other = _external(server)
            await Database(other, TABLE).execute("SELECT 1")
            await other.aclose()
            return await database.execute("SELECT 1")
        finally:
            await living.aclose()

    assert asyncio.run(main()) == "[(1,)]"
    assert server.query("SHOW DATABASES LIKE 'cycleqd%'") == [("cycleqd-mine",)]
    server.query("DROP DATABASE `cycleqd-mine`")
    assert not server.query("SELECT User FROM mysql.user WHERE User LIKE 'cycleqd%'")


def test_many_episodes_wait_over_few_connections(with_live_server, ask):
    async def play(live):
        opened = [Database(live, TABLE) for _ in range(60)]
        sql = f"SELECT COUNT(*) FROM `{TABLE.name}`"
        counts = await asyncio.gather(*(d.execute(sql) for d in opened))
        for _ in range(100):  # the server forgets a closed connection a little later
            ((count,),) = ask(
                "SELECT COUNT(*) FROM information_schema.PROCESSLIST "
                "WHERE User LIKE 'cycleqd%' OR User = 'admin'"
            )
            if count <= most:
                break
            await asyncio.sleep(0.1)
        return set(counts), count

    most = 2 + 1 + 1  # ours, the guard, and the one that counts
    counts, connections = with_live_server(play, connections=2)
    assert counts == {"[(3,)]"}
    assert connections <= most


def test_a_server_that_lets_everybody_into_test_is_refused(server):
    server.query("INSERT INTO mysql.db (Host, Db, User, Select_priv, Create_priv) "
                 "VALUES ('%', 'test\\_%', '', 'Y', 'Y')")  # fmt: skip
    server.query("FLUSH PRIVILEGES")
    try:
        with pytest.raises(BadInputError, match=r"every account into test_\*"):
            asyncio.run(Database(_external(server), TABLE).execute("SELECT 1"))
    finally:
        server.query("DELETE FROM mysql.db WHERE User = ''")
        server.query("FLUSH PRIVILEGES")
    assert not server.query("SHOW DATABASES LIKE 'test%'")


def test_the_state_is_a_hash_of_the_original_columns(with_database):
    async def play(database):
        before = await database.state()
        await database.execute("ALTER TABLE `Cities of Europe` ADD COLUMN extra TEXT")
        same = await database.state()
        await database.execute("DELETE FROM `Cities of Europe` LIMIT 1")
        other = await database.state()
        await database.execute("ALTER TABLE `Cities of Europe` DROP COLUMN Name")
        return before, same, other, await database.state()

    before, same, other, gone = with_database(play)
    assert re.fullmatch(r"\[\('[0-9a-f]{32}',\)\]", before)
    assert same == before
    assert other != before
    assert gone == "1054 (42S22): Unknown column 'Name' in 'SELECT'"
