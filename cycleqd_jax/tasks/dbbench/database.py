"""The database of one problem, made again where its server failed."""

import asyncio
import threading
import time
from typing import NamedTuple

from pymysql import err

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.tasks.dbbench import session
from cycleqd_jax.tasks.dbbench.accounts import Slot
from cycleqd_jax.tasks.dbbench.connection import (
    ServerExhaustedError,
    ServerLostError,
    failure,
)
from cycleqd_jax.tasks.dbbench.live_server import Life, LiveServer
from cycleqd_jax.tasks.dbbench.names import with_database
from cycleqd_jax.tasks.dbbench.table import Feedback, Table

_WATCH_S = 1.0  # between two looks at a running statement
_ATTEMPTS = 3
_LARGEST = 256 * 2**20  # bytes that a statement may make its database
_RESERVE = 256 * 2**20  # bytes of disk that have to stay free, where that is known
# What a model sees instead of its account's name: the reference's account.
_USER = "root"


class _Running(NamedTuple):
    """A statement under way: where, the connection's number, when it began."""

    life: Life
    slot: Slot
    connection: int
    began: float


class Database:
    """A database with a problem's table and what a model's statements made of it.

    It is made at the first statement: many more episodes wait for their first reply
    than are under way.

    Where the server is lost, or runs out of disk space or memory, the database is made
    again: the table, then all statements so far. The statement is then run once more,
    with nothing beside it, and only that run counts. So an episode is judged by its own
    statements, whatever others do to the server.
    """

    def __init__(self, live: LiveServer, *tables: Table):
        """Makes nothing yet.

        Args:
          live: the server where it is made.
          *tables: what it holds at first; see `session.make_tables`.
        """
        self._live = live
        self._tables = tables
        self._statements: list[str] = []  # all that did something, in order
        # Held by a thread at work: the statement of a cancelled episode runs on, and
        # the drop has to wait for it.
        self._lock = threading.RLock()
        self._life: Life | None = None  # of the server, in which it was made
        self._slot: Slot | None = None
        self._spoilt = False  # whether something in it may still be running
        self._starved = False  # whether a statement was ended for want of disk space
        self._running: _Running | None = None
        self._closed = False

    async def execute(self, sql: str) -> str:
        """Runs a model's statement on a connection of its own, and commits it.

        Args:
          sql: as the model wrote it, stripped; nothing at all gives `[]`.

        Returns:
          The text of its `Feedback`.

        Raises:
          SandboxError: the server failed three times; it is no verdict.
          BadInputError: the server cannot be started, or refuses our account.
        """
        feedback = await self._run(sql)
        if feedback.exhausted:  # what it did in part is undone: see `_build`
            await self._live.in_thread(self._drop)
        else:
            self._statements.append(sql)
        return feedback.text

    async def state(self, table: Table | None = None) -> str:
        """The hash of the table's content.

        Args:
          table: whose columns are hashed, by default the first one's.

        Returns:
          `[('<32 hex digits>',)]`, or the error's text where the table or a column is
          gone.

        Raises:
          SandboxError, BadInputError: as for `execute`.
        """
        query = session.state_query(table or self._tables[0])
        return (await self._run(query)).text

    async def close(self) -> None:
        """Drops the database; a second call does nothing."""
        if not self._closed:
            self._closed = True
            await self._live.in_thread(self._drop)

    async def _run(self, sql: str) -> Feedback:
        """Runs a statement until its result counts."""
        exhausted = False
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._live.gate.enter(alone=attempt > 1):
                    feedback = await self._watched(sql, fresh=exhausted)
            except ServerLostError:
                if attempt == _ATTEMPTS:
                    raise
                continue
            if exhausted or not feedback.exhausted:
                return feedback
            exhausted = True
        raise SandboxError(f"The database server failed {_ATTEMPTS} times in a row.")

    async def _watched(self, sql: str, *, fresh: bool) -> Feedback:
        """Runs a statement in a thread and ends it where it takes too much."""
        task = self._live.in_thread(self._attempt, sql, fresh)
        done, _ = await asyncio.wait({task}, timeout=_WATCH_S)
        while not done:
            await self._live.in_watcher(self._watch)
            done, _ = await asyncio.wait({task}, timeout=_WATCH_S)
        return task.result()

    def _attempt(self, sql: str, fresh: bool) -> Feedback:
        """Runs a statement once, in this thread.

        Args:
          sql: the statement.
          fresh: make the database again first; on a server of ours, a fresh one.
        """
        with self._lock:
            if fresh:
                self._discard()
            life = self._live.life()
            try:
                life.admin.check()
                if self._life is not life:
                    self._build(life)
                feedback = self._statement(life, sql)
                if feedback.failed:
                    life.admin.check()  # else it may be the server's failure
                if feedback.exhausted and fresh and not self._live.server.ours:
                    life.admin.check_room(self._slot.database)
                return feedback
            except err.MySQLError as error:
                self._life = None
                self._live.lose(life)
                raise failure(life.admin.address, error) from error
            except ServerLostError as error:
                self._life = None
                failed = not isinstance(error, ServerExhaustedError)
                self._live.lose(life, failed=failed)
                raise

    def _discard(self) -> None:
        """Forgets the database, and the server with it where that is ours."""
        life = self._life
        if life is not None and self._live.server.ours:
            self._live.lose(life, failed=False)
        self._drop()

    def _build(self, life: Life) -> None:
        """Makes the database and runs all statements so far."""
        self._slot, self._life, self._spoilt = life.slots.take(), life, False
        session.make_tables(life.admin, self._slot, self._tables)
        for sql in self._statements:
            if self._statement(life, sql).exhausted:
                raise ServerExhaustedError(
                    f"The {life.admin.address} ran out of disk space or memory."
                )

    def _statement(self, life: Life, sql: str) -> Feedback:
        """Runs a statement in this thread."""
        slot, name = self._slot, self._tables[0].name

        def connected(connection: int) -> None:
            self._running = _Running(life, slot, connection, time.monotonic())

        self._starved = False
        for _ in range(2):
            try:
                feedback = session.run_statement(
                    life.admin,
                    slot,
                    with_database(sql, self._tables[0], slot.database),
                    self._live.statement_s,
                    connected,
                )
            except session.AccountChangedError:  # a model may change its own password
                life.slots.make_account(slot)
                continue
            except session.ConnectionLostError as lost:
                self._spoilt = True
                life.admin.check()  # the server is well: the statement did it
                life.admin.kill(lost.connection)
                feedback = Feedback(lost.text, True)
            finally:
                self._running = None
            text = feedback.text.replace(slot.database, name)
            text = text.replace(slot.user, _USER)
            exhausted = feedback.exhausted or (feedback.failed and self._starved)
            return Feedback(text, feedback.failed, exhausted)
        raise SandboxError(
            f"The {life.admin.address} does not accept the account that was just made "
            "for a problem."
        )

    def _watch(self) -> None:
        """Ends a statement that takes too long or too much of the disk.

        Servers end most by themselves; but a model can lift its connection's limits.
        """
        running = self._running
        if running is None:
            return
        admin, took_s = running.life.admin, time.monotonic() - running.began
        free = self._live.server.free_bytes()
        if free is not None and free < _RESERVE:
            self._starved = True
        elif (
            took_s < self._live.statement_s + session.GRACE_S
            and admin.database_bytes(running.slot.database) < _LARGEST
        ):
            return
        self._spoilt = True
        try:
            admin.kill(running.connection)
        except SandboxError:
            pass  # whoever waits for the statement learns it

    def _drop(self) -> None:
        with self._lock:
            life, self._life = self._life, None
            if life is None or not self._live.is_current(life):
                return
            try:
                life.admin.run(f"DROP DATABASE IF EXISTS `{self._slot.database}`")
            except err.MySQLError:
                return  # it is dropped with everything else at the end
            if not self._spoilt:
                life.slots.give_back(self._slot)
