"""The embedded backend: MySQL's SQL on SQLite, in sandboxed processes of our own.

A database is a few kilobytes that we hold and hand to whichever worker is free
together with a statement; the changed database comes back. So a worker that dies takes
no episode with it, and thousands of episodes need no more than a worker for each core.
"""

import asyncio
import datetime
import functools
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cycleqd_jax.errors import BadInputError, SandboxError
from cycleqd_jax.sandbox.gate import Gate
from cycleqd_jax.sandbox.worker import (
    Worker,
    WorkerDied,
    WorkerProgram,
    build_program,
)
from cycleqd_jax.tasks.dbbench.backend import Table
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour

_MODULE = "cycleqd_jax.tasks.dbbench.sqlite_worker"
MAX_CPU_S = 2.0  # of a statement; on tables of this size all but endless ones end
_TIMEOUT_S = 60.0  # on the clock; a statement's CPU time is limited by its worker
# What a statement is told that its server dies of.
_KILLED = "2013 (HY000): Lost connection to MySQL server during query"


class SqliteBackend:
    """Databases of the embedded backend.

    Args:
      program: what the workers run.
      workers: how many at once.
      flavour: which server is imitated where MySQL 8 and MariaDB differ.
      now: the time that NOW() tells, or None for the clock's in UTC.
      cpu_s: seconds of CPU time that a statement may use.

    Attributes:
      name: "sqlite".
    """

    name = "sqlite"

    def __init__(
        self,
        program: WorkerProgram,
        workers: int,
        flavour: Flavour,
        now: datetime.datetime | None = None,
        cpu_s: float = MAX_CPU_S,
    ):
        self._workers = [Worker(program, slot) for slot in range(workers)]
        self._gate = Gate(workers)
        self._flavour = flavour
        self._now = now
        self._cpu_s = cpu_s
        self._closed = False

    async def open(self, table: Table) -> "SqliteDatabase":
        """A new database that holds the table and nothing else.

        Raises:
          SandboxError: it cannot be made, as a server could not make it either, or
            the workers failed.
        """
        request = {
            "op": "open",
            "name": table.name,
            "columns": list(table.columns) if table.can_exist else [],
            "rows": [[str(cell) for cell in row] for row in table.rows],
        }
        header, image = await self.ask(request, b"")
        if header["failed"]:
            raise SandboxError(
                f"the table {table.name!r} could not be made: {header['text']}"
            )
        return SqliteDatabase(self, table, header["catalog"], image)

    async def ask(
        self, request: Mapping[str, Any], image: bytes
    ) -> tuple[dict[str, Any], bytes]:
        """Has a worker answer a request; once more alone if it dies of it.

        Raises:
          SandboxError: the backend is closed, or two workers died of a request that
            is no statement.
        """
        request = {**request, "flavour": str(self._flavour), "cpu_s": self._cpu_s}
        try:
            return await self._once(request, image, alone=False)
        except WorkerDied:
            pass  # by this request, by another process, by too little memory ...
        try:
            return await self._once(request, image, alone=True)
        except WorkerDied as error:
            if request["op"] != "run":
                raise SandboxError(f"a database worker died twice: {error}") from error
            # It did so alone as well: it is the statement that does it.
            return {"text": _KILLED, "failed": True}, b""

    async def _once(self, request, image: bytes, *, alone: bool):
        async with self._gate.enter(alone=alone) as slot:
            if self._closed:
                raise SandboxError("the sqlite backend is closed; make a new one")
            header, blob = await self._workers[slot].ask(request, image, _TIMEOUT_S)
            return _checked(header), blob

    def moment(self) -> str:
        """The time that NOW() tells."""
        now = self._now or datetime.datetime.now(datetime.UTC)
        return now.strftime("%Y-%m-%d %H:%M:%S")

    async def aclose(self) -> None:
        """Ends the workers; a second call does nothing."""
        self._closed = True
        async with self._gate.enter(alone=True):
            for worker in self._workers:
                worker.stop()


class SqliteDatabase:
    """The database of one problem.

    Args:
      backend: whose workers run the statements.
      table: what it began with.
      catalog: what tables there are, for a worker.
      image: their content, for a worker.
    """

    def __init__(
        self, backend: SqliteBackend, table: Table, catalog: str, image: bytes
    ):
        self._backend = backend
        self._table = table
        self._catalog = catalog
        self._image = image
        self._statements = 0
        self._lock = asyncio.Lock()

    async def execute(self, sql: str) -> str:
        """Runs a model's statement in a session of its own, and commits.

        Args:
          sql: one statement; of several only the first one's result is read.

        Returns:
          The rows as text or the error's text; a result of more than 64 Ki characters
          ends early.

        Raises:
          SandboxError: the workers failed.
        """
        try:
            sql.encode()
        except UnicodeEncodeError as error:  # as the connector's
            return str(error)
        async with self._lock:
            self._statements += 1
            request = {
                "op": "run",
                "catalog": self._catalog,
                "sql": sql,
                "now": self._backend.moment(),
                "seed": self._statements,
            }
            header, image = await self._backend.ask(request, self._image)
            if "catalog" in header and not header["failed"]:
                self._catalog, self._image = header["catalog"], image
            return header["text"]

    async def state(self) -> str:
        """The hash of the table's content over its original columns.

        Raises:
          SandboxError: the workers failed.
        """
        async with self._lock:
            request = {
                "op": "state",
                "catalog": self._catalog,
                "columns": list(self._table.columns),
            }
            header, _ = await self._backend.ask(request, self._image)
            return header["text"]

    async def close(self) -> None:
        """Forgets the database; a second call does nothing."""
        self._image, self._catalog = b"", ""


def _checked(header: dict[str, Any]) -> dict[str, Any]:
    """An answer whose parts have the right types."""
    kinds = {"text": str, "failed": bool, "catalog": str}
    for name, kind in kinds.items():
        if not isinstance(header.get(name, kind()), kind):
            raise WorkerDied(f"its answer's {name} is no {kind.__name__}")
    if not {"text", "failed"} <= header.keys():
        raise WorkerDied("its answer lacks a part")
    return header


def open_backend(
    *,
    workers: int | None = None,
    flavour: Flavour | str = Flavour.MYSQL8,
    now: datetime.datetime | None = None,
    statement_s: float = MAX_CPU_S,
) -> SqliteBackend:
    """The embedded backend, ready to open databases.

    Args:
      workers: processes at once; by default one for each core.
      flavour: "mysql8", or "mariadb" to imitate MariaDB 10.11 where they differ.
      now: the time that NOW() tells, by default the clock's.
      statement_s: seconds that a statement may take, of CPU time and at most 2.

    Raises:
      BadInputError: sqlglot is not installed, bubblewrap is missing or not permitted,
        or the sandbox has no Python of a late enough version.
    """
    cores = len(os.sched_getaffinity(0))
    count = min(workers or cores, cores)
    cpu_s = min(statement_s, MAX_CPU_S)
    return SqliteBackend(_program(count), count, Flavour(flavour), now, cpu_s)


@functools.lru_cache(maxsize=4)
def _program(workers: int) -> WorkerProgram:
    return build_program(_MODULE, _sources(), workers)


def _sources() -> dict[str, bytes]:
    """The modules of the worker: ours that are its, and sqlglot."""
    found = {f"{package}/__init__.py": b"" for package in _packages(_MODULE)}
    for file in sorted(Path(__file__).parent.glob("sqlite_*.py")):
        found[f"cycleqd_jax/tasks/db/{file.name}"] = file.read_bytes()
    spec = importlib.util.find_spec("sqlglot")
    if spec is None or spec.origin is None:
        raise BadInputError(
            "task_settings.dbbench: the sqlite backend needs sqlglot, which is not "
            "installed; pip install 'cycleqd-jax[dbbench]'"
        )
    folder = Path(spec.origin).parent
    for file in sorted(folder.rglob("*.py")):
        found[f"sqlglot/{file.relative_to(folder)}"] = file.read_bytes()
    return found


def _packages(module: str) -> list[str]:
    parts = module.split(".")[:-1]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]
