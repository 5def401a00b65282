"""Servers, tasks and episodes with scripted replies."""

import asyncio
import json
from collections.abc import Sequence

import benchmark_data
import mariadb
import pytest

from cycleqd_jax.chat import DEFAULT_CHAT, Message, Reply
from cycleqd_jax.tasks.base import Problem, TaskSettings
from cycleqd_jax.tasks.dbbench.connection import connect, run
from cycleqd_jax.tasks.dbbench.live_server import LiveServer
from cycleqd_jax.tasks.dbbench.private_server import PrivateServer
from cycleqd_jax.tasks.dbbench.servers import ExternalServer
from cycleqd_jax.tasks.dbbench.task import DBBench

FILE = "dbbench/cycleqd_standard_dev.jsonl"


class Script:
    """A chat that says what it was told to say and remembers what it was asked."""

    def __init__(self, *replies: str):
        self.replies = replies
        self.asked: list[tuple[Message, ...]] = []

    async def __call__(self, messages: Sequence[Message], options=DEFAULT_CHAT):
        self.asked.append(tuple(messages))
        return Reply(self.replies[len(self.asked) - 1])


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One MariaDB for all tests that leave it as it was."""
    with mariadb.running(tmp_path_factory.mktemp("mariadb")) as running:
        yield running


class KeptServer(PrivateServer):
    """A private server that several tests use in turn."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def kept_server():
    mariadb.skip_without()
    kept = KeptServer()
    yield kept
    PrivateServer.close(kept)


@pytest.fixture(params=["private", "server"])
def database_server(request):
    """Each kind of server in turn, as `LiveServer` takes it."""
    if request.param == "private":
        return request.getfixturevalue("kept_server")
    return ExternalServer(request.getfixturevalue("server").url)


@pytest.fixture
def ask(database_server):
    """The rows of a statement as the administrator of that server."""

    def rows(sql: str) -> list[tuple]:
        address = database_server.address()
        connection = connect(
            address,
            address.user,
            address.password,
            read_timeout_s=20,
            init="SET autocommit=1",
        )
        try:
            return run(connection, sql)
        finally:
            connection.close()

    return rows


@pytest.fixture
def with_live_server(database_server):
    """Awaits what a function makes of that server, in use."""

    def await_all(function, **options):
        async def main():
            live = LiveServer(database_server, **options)
            try:
                return await function(live)
            finally:
                await live.aclose()

        return asyncio.run(main())

    return await_all


@pytest.fixture(params=["private", "server"])
def backend_options(request):
    """The options that choose each server in turn."""
    if request.param == "private":
        mariadb.skip_without()
        return {"backend": "private"}
    url = request.getfixturevalue("server").url
    return {"backend": "server", "url": url}


@pytest.fixture(scope="session")
def make_task():
    """A task on the benchmark's data with further options, and sizes by split."""

    def make(sizes=None, **options) -> DBBench:
        data = str(benchmark_data.data_folder() / FILE)
        options = {"data": data, **options}
        return DBBench(TaskSettings(0, sizes or {}, options=options, download=False))

    return make


@pytest.fixture(scope="session")
def play():
    """Plays (problem, replies) pairs at once and closes the task."""

    def play_all(
        task: DBBench,
        episodes: Sequence[tuple[Problem, Sequence[str]]],
        return_exceptions: bool = False,
    ):
        async def main():
            try:
                return await asyncio.gather(
                    *(task.run(p, Script(*replies), None) for p, replies in episodes),
                    return_exceptions=return_exceptions,
                )
            finally:
                await task.aclose()

        return asyncio.run(main())

    return play_all


@pytest.fixture(scope="session")
def script():
    """The scripted chat's class."""
    return Script


@pytest.fixture(scope="session")
def episode():
    """Plays the first problem; `before` the reply number `turn` something happens."""

    def play(task, *replies, before=None, turn=-1):
        async def chat(messages, options=DEFAULT_CHAT):
            now = sum(m["role"] == "assistant" for m in messages) - 1
            if now == turn % len(replies) and before is not None:
                before()
            return Reply(replies[now])

        return task.run(task.problem(0), chat, None)

    return play


PROMPT = {
    "messages": [
        {"role": "user", "content": "Rules."},
        {"role": "assistant", "content": "Ok."},
        {"role": "user", "content": "{description}\n{add_description}"},
    ]
}
PROBLEM = {
    "description": "Who is 40?",
    "add_description": "The table is People, its headers are Name, Age.",
    "type": ["other"],
    "label": ["Bob"],
    "table": {
        "table_name": "People",
        "table_info": {
            "columns": [{"name": "Name"}, {"name": "Age"}],
            "rows": [["Ann", "30"], ["Bob", "40"]],
        },
    },
}


@pytest.fixture
def small_data(tmp_path):
    """Writes a problem file of given changes to one problem, and its prompt."""

    def write(*changes: dict) -> str:
        lines = [json.dumps({**PROBLEM, **change}) for change in changes or ({},)]
        path = tmp_path / "cycleqd_standard_dev.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        (tmp_path / "prompt.json").write_text(json.dumps(PROMPT), encoding="utf-8")
        return str(path)

    return write
