"""The MariaDB that a run starts for itself: its walls, its failures, its end."""

import asyncio
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import mariadb
import private_mariadb
import pytest

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.tasks.base import Outcome, TaskSettings
from cycleqd_jax.tasks.dbbench import database, mariadb_program, private_server
from cycleqd_jax.tasks.dbbench.database import Database
from cycleqd_jax.tasks.dbbench.live_server import LiveServer
from cycleqd_jax.tasks.dbbench.private_server import PrivateServer
from cycleqd_jax.tasks.dbbench.servers import ExternalServer
from cycleqd_jax.tasks.dbbench.table import Table
from cycleqd_jax.tasks.dbbench.task import DBBench

TABLE = Table("notes", ("a", "b"), (("1", "x"), ("2", "y")))
DELETE = "Action: Operation\n```sql\nDELETE FROM People WHERE Name = 'Ann'\n```"
SELECT = "Action: Operation\n```sql\nSELECT * FROM People\n```"
ANSWER = 'Action: Answer\nFinal Answer: ["Bob"]'
ROOT = pathlib.Path(private_server.__file__).parents[3]
WHO = ["root", "user"] if os.geteuid() == 0 else ["user"]


@pytest.fixture
def own_private():
    """A server that the test may harm."""
    mariadb.skip_without()
    running = PrivateServer()
    yield running
    running.close()


@pytest.fixture
def task(small_data):
    """A task on the small data with a private server."""
    mariadb.skip_without()
    return DBBench(TaskSettings(options={"data": small_data()}))


def processes(server: PrivateServer) -> list[int]:
    """The process ids of bubblewrap, of what watches inside and of the server."""
    monitor = server._running.process.pid
    return [monitor, *private_mariadb.descendants(monitor)]


def stop(server: PrivateServer, number: int = signal.SIGKILL) -> None:
    os.kill(processes(server)[-1], number)


def lives(pid: int) -> bool:
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("moment", ["running", "0.1", "0.3", "0.6"])
@pytest.mark.parametrize("who", WHO)
def test_the_server_ends_with_a_run_that_is_killed(who, moment, tmp_path):
    mariadb.skip_without()
    tmp_path.chmod(0o777)
    uid = "54321" if who == "user" and os.geteuid() == 0 else "-"
    done = subprocess.run(
        [sys.executable, private_mariadb.__file__, uid, moment],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        cwd="/",
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    said = json.loads(done.stdout)
    assert (said["uid"] == 0) == (who == "root")
    if moment == "running":
        assert len(said["pids"]) >= 3
    deadline = time.monotonic() + 30
    while any(map(lives, said["pids"])):
        assert time.monotonic() < deadline, "the server outlives its run"
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def test_the_server_lives_behind_walls(own_private):
    own_private.address()
    inner = processes(own_private)[-1]
    for name in ("user", "mnt", "pid", "net", "ipc", "uts"):
        ours = os.readlink(f"/proc/self/ns/{name}")
        assert os.readlink(f"/proc/{inner}/ns/{name}") != ours
    status = pathlib.Path(f"/proc/{inner}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "Uid:\t0" not in status
    assert b"CYCLEQD" not in pathlib.Path(f"/proc/{inner}/environ").read_bytes()
    # Not even the password of its administrator is to be seen from outside.
    password = own_private.address().password.encode()
    for pid in processes(own_private):
        assert password not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_closed_server_leaves_nothing(own_private):
    descriptors = len(os.listdir("/proc/self/fd"))
    own_private.address()
    running = processes(own_private)
    own_private.close()
    assert not any(map(lives, running))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    own_private.address()  # it can be started again
    assert not set(processes(own_private)) & set(running)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_an_episode_goes_on_with_another_server(task, episode, monkeypatch, number):
    monkeypatch.setattr("cycleqd_jax.tasks.dbbench.live_server._PATIENCE_S", 1.0)

    async def main():
        try:
            return await episode(
                task,
                DELETE,
                SELECT,
                ANSWER,
                before=lambda: stop(task._server, number),
                turn=1,
            )
        finally:
            await task.aclose()

    task.options = task.options.model_copy(update={"statement_s": 1.0})
    result = asyncio.run(main())
    assert result.outcome is Outcome.SOLVED
    assert result.feedback == ("[]", "[('Bob', '40')]")


def test_all_episodes_go_on_where_a_server_dies_under_them(own_private):
    async def main():
        live = LiveServer(own_private)
        try:
            opened = [Database(live, TABLE) for _ in range(20)]
            for place, one in enumerate(opened):
                await one.execute(f"INSERT INTO notes VALUES ('{place}', 'new')")
            slow = "SELECT COUNT(*), SLEEP(0.3) FROM notes"
            running = [asyncio.ensure_future(one.execute(slow)) for one in opened]
            await asyncio.sleep(0.2)
            stop(own_private)
            counts = await asyncio.gather(*running)
            sql = "SELECT a FROM notes WHERE b = 'new'"
            return counts, [await one.execute(sql) for one in opened]
        finally:
            await live.aclose()

    counts, rows = asyncio.run(main())
    assert set(counts) == {"[(3, 0)]"}
    assert rows == [f"[('{place}',)]" for place in range(20)]


def test_a_statement_that_no_server_survives_stops_the_run(own_private, monkeypatch):
    """Whoever runs it; it is an error of ours and no verdict."""
    run_statement, starts = database.session.run_statement, []

    def deadly(admin, slot, sql, limit_s, connected):
        if "deadly" in sql:
            starts.append(processes(own_private))
            stop(own_private)
        return run_statement(admin, slot, sql, limit_s, connected)

    monkeypatch.setattr(database.session, "run_statement", deadly)

    async def main():
        live = LiveServer(own_private)
        try:
            one, other = Database(live, TABLE), Database(live, TABLE)
            with pytest.raises(SandboxError, match=r"private MariaDB failed: 20\d\d"):
                await one.execute("SELECT 'deadly'")
            return await other.execute("SELECT * FROM notes")
        finally:
            await live.aclose()

    assert asyncio.run(main()) == "[('1', 'x'), ('2', 'y')]"
    assert len(starts) == 3


def test_a_server_is_not_started_for_ever(own_private, monkeypatch):
    monkeypatch.setattr(private_server, "_MOST_FAILURES", 2)
    for _ in range(3):
        own_private.address()
        stop(own_private, signal.SIGSEGV)
        own_private._running.process.wait(30)
    with pytest.raises(SandboxError, match="failed 3 times and is not started again"):
        own_private.address()


def test_a_server_that_does_not_start_is_told_with_its_words(own_private, monkeypatch):
    settings = (*mariadb_program._SETTINGS, "--no-such-setting")
    monkeypatch.setattr(mariadb_program, "_SETTINGS", settings)
    with pytest.raises(SandboxError, match=r"it said: .*no-such-setting"):
        own_private.address()


def test_a_server_that_is_not_installed_is_told_with_the_command(
    task, episode, monkeypatch
):
    monkeypatch.setattr(mariadb_program, "SEARCH_PATH", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    words = "mariadbd was not found; install it with: sudo apt-get install mariadb-serv"
    with pytest.raises(BadInputError, match=words):
        _ = task.fingerprint
    with pytest.raises(BadInputError, match=words):
        asyncio.run(episode(task, SELECT, ANSWER))


def test_pymysql_that_is_not_installed_is_told_with_the_extra(task, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    for name in ("servers", "connection", "live_server"):
        monkeypatch.delitem(sys.modules, f"cycleqd_jax.tasks.dbbench.{name}")
    with pytest.raises(
        BadInputError, match=r"needs PyMySQL .*'cycleqd-jax\[dbbench\]'"
    ):
        _ = task.fingerprint


def test_the_fingerprint_has_the_server_s_kind_and_version(small_data, monkeypatch):
    def make(**options):
        return DBBench(TaskSettings(options={"data": small_data(), **options}))

    def fingerprint(version, **options):
        kind = ExternalServer if options else PrivateServer
        monkeypatch.setattr(kind, "version", lambda self: version)
        return make(**options).fingerprint

    given = {"backend": "server", "url": "mysql://a@b"}
    first = fingerprint("mariadb 10.11")
    assert fingerprint("mariadb 10.11", **given) == first
    assert fingerprint("mariadb 11.4") != first
    assert fingerprint("mysql 8.0", **given) != first


def test_both_kinds_of_server_tell_their_version(database_server, ask):
    ((said,),) = ask("SELECT VERSION()")
    kind, series = database_server.version().split()
    assert kind == "mariadb"
    assert said.startswith(f"{series}.")


# Each would fill a server's memory or disk, were it let.
BOMBS = {
    "one long value": ["SELECT REPEAT('x', 2000000000)"],
    "one long row": [f"SELECT {', '.join(['REPEAT(1, 16000000)'] * 400)}"],
    "variables": [
        "CREATE PROCEDURE p() BEGIN DECLARE i INT DEFAULT 0; WHILE i < 100000 DO "
        "SET i = i + 1; EXECUTE IMMEDIATE CONCAT('SET @v', i, ' = REPEAT(1, 9000000)');"
        " END WHILE; END",
        "CALL p()",
    ],
    "sort": [
        "SET sort_buffer_size = 4000000000; SELECT * FROM (SELECT REPEAT(seq, 300) a "
        "FROM seq_1_to_9000000) t ORDER BY a DESC"
    ],
    "distinct": [
        "SET tmp_memory_table_size = 16000000000, max_heap_table_size = 16000000000;"
        " SELECT COUNT(*) FROM (SELECT DISTINCT MD5(seq) FROM seq_1_to_90000000) t"
    ],
    "tables in memory": [
        "CREATE PROCEDURE p() BEGIN DECLARE i INT DEFAULT 0; WHILE i < 100000 DO "
        "SET i = i + 1; EXECUTE IMMEDIATE CONCAT('CREATE TABLE y', i, ' ENGINE=MEMORY "
        "SELECT CAST(1 AS CHAR(2000)) a FROM seq_1_to_1900'); END WHILE; END",
        "CALL p()",
    ],
    "a long recursion": [
        "WITH RECURSIVE r AS (SELECT 1 n, REPEAT('x', 90000) s UNION ALL "
        "SELECT n + 1, s FROM r) SELECT COUNT(*) FROM r, r r2, r r3"
    ],
    "a temporary table": [
        "CREATE TEMPORARY TABLE t SELECT REPEAT('x', 60000) a FROM seq_1_to_900000"
    ],
    "a table": ["CREATE TABLE t SELECT REPEAT('x', 60000) a FROM seq_1_to_900000"],
    "a MyISAM table": [
        "CREATE TABLE t ENGINE=MyISAM SELECT REPEAT('x', 60000) a FROM seq_1_to_900000"
    ],
    "prepared statements": [
        "PREPARE s FROM 'SELECT SLEEP(1000)'; EXECUTE s; EXECUTE s; EXECUTE s"
    ],
    "a procedure without end": [
        "CREATE PROCEDURE p() BEGIN l: LOOP DO SLEEP(0.01); END LOOP; END",
        "CALL p()",
    ],
    "locks": ["SELECT GET_LOCK('a', 100), GET_LOCK('b', 100), SLEEP(1000)"],
}


ASKED = "SELECT COUNT(*), GET_LOCK('c', 0), RELEASE_LOCK('c') FROM notes"


@pytest.mark.parametrize("name", BOMBS)
def test_no_statement_ends_the_server_or_another_episode(kept_server, name):
    """Its processes may be others afterwards: where it was full it was restarted."""
    failures = kept_server._failures

    async def main():
        live = LiveServer(kept_server, statement_s=2.0)
        try:
            mine, other = Database(live, TABLE), Database(live, TABLE)
            await other.execute("INSERT INTO notes VALUES ('3', 'z')")
            said = asyncio.ensure_future(_all(mine, BOMBS[name]))
            rows = set()
            while not said.done():
                # Released at once: a busy server sees the end of a connection late, and
                # the next question would wait for the lock of the one before.
                rows.add(await other.execute(ASKED))
                await asyncio.sleep(0.1)
            return (await said)[-1], rows, await mine.execute("SELECT * FROM notes")
        finally:
            await live.aclose()

    began = time.monotonic()
    said, rows, mine = asyncio.run(main())
    assert time.monotonic() - began < 120
    assert not said.startswith("[(9000")
    assert rows == {"[(3, 1, 1)]"}
    assert mine == "[('1', 'x'), ('2', 'y')]"
    assert kept_server._failures == failures


async def _all(one, statements):
    return [await one.execute(sql) for sql in statements]


def test_what_others_fill_the_disk_with_is_no_verdict(own_private, monkeypatch):
    monkeypatch.setattr(private_server, "_FILE_BYTES", 116 * 2**20)
    monkeypatch.setattr(database, "_RESERVE", 0)
    fill = "CREATE TABLE t SELECT REPEAT('x', 60000) a FROM seq_1_to_300"

    async def main():
        live = LiveServer(own_private)
        try:
            first, second = Database(live, TABLE), Database(live, TABLE)
            said = [await one.execute(fill) for one in (first, second)]
            said += [
                await one.execute("SELECT COUNT(*) FROM t") for one in (second, first)
            ]
            return said
        finally:
            await live.aclose()

    assert asyncio.run(main()) == ["[]", "[]", "[(300,)]", "[(300,)]"]
