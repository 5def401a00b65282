"""A given server that is gone, slow, full or refuses us is no verdict on a model."""

import asyncio
import signal

import mariadb
import pytest

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.tasks.base import Outcome, TaskSettings
from cycleqd_jax.tasks.dbbench.task import DBBench

SELECT = "Action: Operation\n```sql\nSELECT * FROM People\n```"
DELETE = "Action: Operation\n```sql\nDELETE FROM People WHERE Name = 'Ann'\n```"
ANSWER = 'Action: Answer\nFinal Answer: ["Bob"]'


@pytest.fixture
def own_server(tmp_path):
    """A server that the test may harm."""
    with mariadb.running(tmp_path) as running:
        yield running


@pytest.fixture
def make(small_data):
    """A task on the small data, on a server."""

    def make_task(url, **options):
        options = {"data": small_data(), "backend": "server", "url": url, **options}
        return DBBench(TaskSettings(options=options))

    return make_task


def test_a_server_that_dies_in_an_episode_and_comes_back(own_server, make, episode):
    task = make(own_server.url)

    def restart():
        own_server.stop()
        own_server.start()

    async def main():
        try:
            first = await episode(task, SELECT, ANSWER)
            with pytest.raises(
                SandboxError, match=r"Problem dbbench/0: .*MySQL server"
            ):
                await episode(task, SELECT, SELECT, before=own_server.stop)
            with pytest.raises(
                SandboxError, match=r"Problem dbbench/0: .*MySQL server"
            ):
                await episode(task, SELECT)
            own_server.start()
            second = await episode(task, SELECT, ANSWER)
            # Its content may have changed, so the database is made again.
            replies = (DELETE, SELECT, ANSWER)
            third = await episode(task, *replies, before=restart, turn=1)
            return first, second, third, await episode(task, SELECT, ANSWER)
        finally:
            await task.aclose()

    first, second, third, fourth = asyncio.run(main())
    for result in (first, second, fourth):
        assert result.outcome is Outcome.SOLVED
        assert result.feedback == ("[('Ann', '30'), ('Bob', '40')]",)
    assert third.outcome is Outcome.SOLVED
    assert third.feedback == ("[]", "[('Bob', '40')]")
    assert not own_server.query("SHOW DATABASES LIKE 'cycleqd%'")


def test_a_server_that_hangs(own_server, make, monkeypatch, episode):
    monkeypatch.setattr("cycleqd_jax.tasks.dbbench.live_server._PATIENCE_S", 0.5)
    monkeypatch.setattr("cycleqd_jax.tasks.dbbench.session.GRACE_S", 0.2)
    monkeypatch.setattr("cycleqd_jax.tasks.dbbench.connection._CONNECT_S", 0.5)
    task = make(own_server.url, statement_s=0.5)

    async def main():
        try:
            with pytest.raises(SandboxError, match="Problem dbbench/0"):
                await episode(
                    task,
                    SELECT,
                    SELECT,
                    before=lambda: own_server.send(signal.SIGSTOP),
                )
            own_server.send(signal.SIGCONT)
            return await episode(task, SELECT, ANSWER)
        finally:
            await task.aclose()

    assert asyncio.run(main()).outcome is Outcome.SOLVED


def test_a_server_without_room(tmp_path, make, episode):
    fill = (
        "Action: Operation\n```sql\nINSERT INTO People SELECT REPEAT('x', 2000), '' "
        "FROM information_schema.COLUMNS a, information_schema.COLUMNS b\n```"
    )
    with mariadb.running(tmp_path, spare=24 * 2**20) as full:
        task = make(full.url)

        async def main():
            try:
                with pytest.raises(SandboxError, match=r"Problem dbbench/0: .*1114"):
                    await episode(task, fill, ANSWER)
            finally:
                await task.aclose()

        asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("mysql://admin:wrong@127.0.0.1:{port}", BadInputError, "refuses user 'admin'"),
        ("mysql://nobody@127.0.0.1:{port}", BadInputError, "refuses user 'nobody'"),
        ("mysql://admin:secret@127.0.0.1:1", SandboxError, "127.0.0.1:1 failed: 2003"),
        (
            "mysql://admin:secret@localhost?unix_socket=/nowhere",
            SandboxError,
            "/nowhere failed: 2002",
        ),
    ],
    ids=["password", "user", "port", "socket"],
)
def test_a_server_that_lets_nobody_in(server, make, url, kind, words, episode):
    task = make(url.format(port=server.port))

    async def main():
        try:
            await episode(task, SELECT, ANSWER)
        finally:
            await task.aclose()

    with pytest.raises(kind, match=words) as caught:
        asyncio.run(main())
    assert str(caught.value).startswith("Problem dbbench/0: ")
    assert "secret" not in str(caught.value) and "wrong" not in str(caught.value)


def test_an_account_without_the_rights(server, make, episode):
    server.query("CREATE USER poor@'127.0.0.1' IDENTIFIED BY 'x'")
    task = make(f"mysql://poor:x@127.0.0.1:{server.port}")

    async def main():
        try:
            await episode(task, SELECT, ANSWER)
        finally:
            await task.aclose()

    try:
        with pytest.raises(BadInputError, match="may create databases and users"):
            asyncio.run(main())
    finally:
        server.query("DROP USER poor@'127.0.0.1'")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (None, "neither task_settings.dbbench.url nor CYCLEQD_MYSQL_URL"),
        ("postgres://a@b", "does not begin with mysql://"),
        ("mysql://host:3306", "names no user"),
        ("mysql://a:secret@host:port", "cannot be read"),
        ("mysql://a:secret@host/base", "names a database"),
        ("mysql://a:secret@host?ssl=1", "has ssl"),
        ("mysql://a:secret@host?tls=1", "tls is neither"),
    ],
)
def test_a_wrong_url_is_told_before_anything_runs(make, monkeypatch, url, words):
    monkeypatch.delenv("CYCLEQD_MYSQL_URL", raising=False)
    with pytest.raises(BadInputError, match=words) as caught:
        make(url)
    assert "secret" not in str(caught.value)


def test_the_url_may_come_from_the_environment(server, make, monkeypatch, episode):
    monkeypatch.setenv("CYCLEQD_MYSQL_URL", server.url)
    task = make(None)

    async def main():
        try:
            return await episode(task, SELECT, ANSWER)
        finally:
            await task.aclose()

    assert asyncio.run(main()).outcome is Outcome.SOLVED
