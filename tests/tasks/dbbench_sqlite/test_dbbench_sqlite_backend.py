"""The embedded backend's processes: walls, limits, deaths."""

import asyncio
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.worker import WorkerDied
from cycleqd_jax.tasks.dbbench.backend import Table
from cycleqd_jax.tasks.dbbench.sqlite import open_backend

TABLE = Table("numbers", ("a", "b"), tuple((str(i), "x" * 50) for i in range(100)))
LIMIT = "3024 (HY000): Query execution was interrupted"
DEEP = "1436 (HY000): Thread stack overrun"
HOSTILE = {
    "endless recursion": (
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT "
        "COUNT(*) FROM n",
        LIMIT,
    ),
    "endless join": (
        "SELECT COUNT(*) FROM numbers a, numbers b, numbers c, numbers d, numbers e",
        LIMIT,
    ),
    "endless regular expression": (
        "SELECT REPEAT('a', 40) REGEXP '^(a+)+b$'",
        LIMIT,
    ),
    "quadratic text": (
        "SELECT REGEXP_REPLACE(REPEAT('a', 100000), 'a', REPEAT('b', 100000))",
        LIMIT,
    ),
    "parentheses": ("SELECT " + "(" * 5000 + "1" + ")" * 5000, DEEP),
    "signs": ("SELECT " + "- " * 20000 + "1", DEEP),
    "calls": ("SELECT " + "UPPER(" * 300 + "'a'" + ")" * 300, DEEP),
    "queries": ("SELECT * FROM " + "(SELECT * FROM " * 90 + "t" + ") x" * 90, DEEP),
    "long text": ("SELECT REPEAT('a', 1000000000)", "[(None,)]"),
    "much text": (
        "SELECT GROUP_CONCAT(REPEAT(a.b, 1000)) FROM numbers a, numbers b, numbers c",
        ("1041 (HY000)", "3024 (HY000)"),  # whichever limit it comes to first
    ),
    "many rows": (
        "INSERT INTO numbers SELECT a.a, a.b FROM numbers a, numbers b, numbers c",
        "1114 (HY000): The table 'numbers' is full",
    ),
    "large rows": (
        "UPDATE numbers SET b = REPEAT('x', 60000)",
        "1114 (HY000): The table 'numbers' is full",
    ),
    "sleeping": ("SELECT SLEEP(1000), BENCHMARK(1000000000, MD5('a'))", "[(0, 0)]"),
    "a file": ("SELECT LOAD_FILE('/etc/passwd')", "[(None,)]"),
    "a file to write": ("SELECT 1 INTO OUTFILE '/tmp/x'", "1227 (42000): Access"),
    "another database": ("SELECT * FROM mysql.user", "1142 (42000): SELECT command"),
    "the engine's tables": (
        "SELECT * FROM sqlite_master",
        "1146 (42S02): Table 'numbers.sqlite_master' doesn't exist",
    ),
    "the engine's functions": (
        "SELECT load_extension('x')",
        "1305 (42000): FUNCTION numbers.load_extension does not exist",
    ),
    "our functions": (
        "SELECT m_now()",
        "1305 (42000): FUNCTION numbers.m_now does not exist",
    ),
    "the engine's settings": ("PRAGMA database_list", "1064 (42000)"),
    "another file": ("ATTACH DATABASE '/tmp/x' AS y", "1064 (42000)"),
    "no text": ("SELECT '\ud800'", "'utf-8' codec can't encode"),
    "a name that is SQL": (
        'CREATE TABLE `x"); DROP TABLE t2; --` (`"a` INT)',
        "[]",
    ),
}


@pytest.fixture(scope="module")
def answers():
    """What comes of all hostile statements, each on a database of its own."""

    async def main():
        backend = open_backend(statement_s=0.5)
        bystander = await backend.open(TABLE)
        await bystander.execute("UPDATE numbers SET b = 'kept' WHERE a = '5'")
        before = await bystander.state()

        async def one(statement):
            database = await backend.open(TABLE)
            try:
                return await database.execute(statement)
            finally:
                await database.close()

        try:
            texts = await asyncio.gather(*(one(s) for s, _ in HOSTILE.values()))
            assert await bystander.state() == before
        finally:
            await backend.aclose()
        return dict(zip(HOSTILE, texts, strict=True))

    return asyncio.run(main())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_statement_gets_an_answer(answers, name):
    assert answers[name].startswith(HOSTILE[name][1])
    assert len(answers[name]) < 1000


def with_backend(function, **options):
    """Awaits what a function makes of a backend, which is closed after."""

    async def main():
        backend = open_backend(workers=1, **options)
        try:
            return await function(backend)
        finally:
            await backend.aclose()

    return asyncio.run(main())


def test_a_worker_that_dies_takes_no_database_with_it():
    async def kill(backend):
        database = await backend.open(TABLE)
        await database.execute("DELETE FROM numbers WHERE a > '5'")
        state = await database.state()
        first = _inner(backend)
        os.kill(first, signal.SIGKILL)
        assert await database.state() == state
        assert _inner(backend) != first
        os.kill(backend._workers[0]._process.pid, signal.SIGKILL)
        return await database.execute("SELECT COUNT(*) FROM numbers WHERE a = '4'")

    assert with_backend(kill) == "[(1,)]"


def test_a_statement_that_two_workers_die_of_is_an_error_of_its_own():
    async def die(backend):
        database = await backend.open(TABLE)

        async def ask(*_):
            raise WorkerDied("it ended")

        worker = backend._workers[0]
        worker.ask, true_ask = ask, worker.ask
        text = await database.execute("SELECT 1")
        with pytest.raises(
            SandboxError, match="a database worker died twice: it ended"
        ):
            await database.state()
        worker.ask = true_ask
        return text, await database.execute("SELECT 2")

    lost = "2013 (HY000): Lost connection to MySQL server during query"
    assert with_backend(die) == (lost, "[(2,)]")


@pytest.mark.parametrize(
    "answer", [b"", b"\0" * 8, b"\xff" * 8, struct.pack("<II", 2, 0) + b"[]"]
)
def test_nonsense_from_a_worker_is_no_answer(answer):
    async def listen(backend):
        database = await backend.open(TABLE)
        worker = backend._workers[0]

        async def exactly(size, left=[answer]):  # noqa: B006
            if len(left[0]) < size:
                raise EOFError("it ended")
            part, left[0] = left[0][:size], left[0][size:]
            return part

        worker._exactly = exactly
        with pytest.raises(SandboxError, match="a database worker died twice"):
            await database.state()
        del worker._exactly
        return await database.execute("SELECT 3")

    assert with_backend(listen) == "[(3,)]"


def test_a_closed_backend_says_so():
    async def late(backend):
        database = await backend.open(TABLE)
        await backend.aclose()
        with pytest.raises(SandboxError, match="closed; make a new one"):
            await database.execute("SELECT 1")

    with_backend(late)


def test_a_cancelled_statement_leaves_the_next_its_own_answer():
    async def cancel(backend):
        database = await backend.open(TABLE)
        slow = asyncio.ensure_future(database.execute(HOSTILE["endless join"][0]))
        await asyncio.sleep(0.05)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        return await database.execute("SELECT 2")

    assert with_backend(cancel) == "[(2,)]"


def _inner(backend) -> int:
    """The process id of the worker inside its sandbox."""
    pid = backend._workers[0]._process.pid
    for _ in range(100):
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
        if children:
            return int(children.split()[0])
        time.sleep(0.02)
    raise AssertionError("there is no process inside")


def test_a_worker_lives_in_namespaces_of_its_own():
    async def look(backend):
        await backend.open(TABLE)
        inner = _inner(backend)
        shared = [
            name
            for name in ("user", "mnt", "pid", "net", "ipc", "uts")
            if os.readlink(f"/proc/{inner}/ns/{name}")
            == os.readlink(f"/proc/self/ns/{name}")
        ]
        status = pathlib.Path(f"/proc/{inner}/status").read_text()
        environment = pathlib.Path(f"/proc/{inner}/environ").read_bytes()
        return shared, status, environment

    shared, status, environment = with_backend(look)
    assert shared == []
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert b"CYCLEQD" not in environment


PARENT = """
import asyncio, os, sys
from cycleqd_jax.tasks.db.backend import Table
from cycleqd_jax.tasks.db.sqlite import open_backend
async def main():
    backend = open_backend(workers=1)
    await backend.open(Table("t", ("a",), (("1",),)))
    print(backend._workers[0]._process.pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


def test_a_worker_ends_with_its_parent():
    root = pathlib.Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=60,
    )
    pid = int(done.stdout)
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")
