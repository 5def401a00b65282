"""A server in use: its worker threads and its connections.

Everything that is said to a server blocks, so it happens in as many threads as
`connections`; any number of episodes waits for them.
"""

import asyncio
import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pymysql import err

from cycleqd_jax.sandbox.gate import Gate
from cycleqd_jax.tasks.dbbench.accounts import Slots
from cycleqd_jax.tasks.dbbench.administrator import Administrator
from cycleqd_jax.tasks.dbbench.connection import ServerLostError, failure
from cycleqd_jax.tasks.dbbench.servers import Server

_T = TypeVar("_T")
_PATIENCE_S = 10.0  # at least, for the server to answer its administrator


@dataclasses.dataclass(frozen=True, eq=False)
class Life:
    """The time of a server from our first connection until it stops or restarts.

    Attributes:
      admin: connections to it.
      slots: names and accounts on it.
    """

    admin: Administrator
    slots: Slots


class LiveServer:
    """A server in use.

    Attributes:
      server: what is used.
      statement_s: seconds one statement of a model may take.
      gate: who may run a statement now.
    """

    def __init__(
        self, server: Server, *, connections: int = 4, statement_s: float = 30.0
    ):
        """Does not start or connect to the server yet.

        Args:
          server: what is used.
          connections: statements at a time; the server sees at most twice as many
            connections and one more.
          statement_s: seconds one statement of a model may take.
        """
        self.server = server
        self.statement_s = statement_s
        self.gate = Gate(connections)
        self._threads = concurrent.futures.ThreadPoolExecutor(connections, "dbbench")
        self._watcher = concurrent.futures.ThreadPoolExecutor(1, "dbbench-watch")
        self._lock = threading.Lock()
        self._life: Life | None = None
        self._lost: list[Life] = []

    async def aclose(self) -> None:
        """Drops what was made, closes all connections, ends a server of our own."""
        await asyncio.to_thread(self._close)

    def in_thread(
        self, function: Callable[..., _T], *args: Any
    ) -> "asyncio.Future[_T]":
        """Calls a blocking function in a thread."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, function, *args)

    def in_watcher(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Calls a short blocking function in a thread of its own."""
        return asyncio.get_running_loop().run_in_executor(self._watcher, function)

    def life(self) -> Life:
        """The current life of the server; starts and connects to it if needed.

        Raises:
          ServerLostError: there is no connection to be had.
          BadInputError: the server cannot be started, or refuses our account.
        """
        with self._lock:
            if self._life is None:
                try:
                    self._life = self._begin()
                except ServerLostError:
                    self.server.restart(failed=True)
                    raise
            return self._life

    def is_current(self, life: Life) -> bool:
        """True if the server was not restarted since this life began."""
        return self._life is life

    def lose(self, life: Life, *, failed: bool = True) -> None:
        """Ends a life of the server; databases made in it are made again elsewhere.

        Args:
          life: the life; nothing happens where it has ended already.
          failed: False where the server is well but to be started afresh.
        """
        with self._lock:
            if self._life is not life:
                return
            self._life = None
            self._lost.append(life)
            self.server.restart(failed=failed)
        life.admin.leave()

    def _begin(self) -> Life:
        admin = Administrator(self.server.address(), max(_PATIENCE_S, self.statement_s))
        try:
            return Life(admin, Slots(admin))
        except err.MySQLError as error:
            admin.close()
            raise failure(admin.address, error) from error
        except BaseException:
            admin.close()
            raise

    def _close(self) -> None:
        if self.server.ours:  # so that no thread waits for a long statement
            self.server.close()
        for pool in (self._threads, self._watcher):
            pool.shutdown(wait=True, cancel_futures=True)
        life, self._life = self._life, None
        if life is not None:
            if not self.server.ours:
                life.admin.drop_all()
            life.admin.close()
        for lost in self._lost:
            lost.admin.close()
        self.server.close()
