"""The process that runs a model's statements, inside a sandbox (see `sandbox.worker`).

It answers one request after another and keeps nothing between them but compiled
queries. A statement has `CPU_S` seconds of CPU time and a bounded memory; one that
needs more gets an error, as a server would give it.
"""

import json
import os
import resource
import signal
import sqlite3
import struct
import sys

from cycleqd_jax.tasks.dbbench.sqlite_engine import Engine, State
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError

MEMORY_BYTES = 1 << 30  # address space of the process
HEAP_BYTES = 1 << 28  # of SQLite
_FRAME = struct.Struct("<II")
_STEPS = 20_000  # of SQLite's machine between two looks at the clock
_FUNCTIONS = frozenset(
    """
count min max abs ifnull coalesce row_number rank dense_rank ntile cume_dist
percent_rank lag lead first_value last_value nth_value
""".split()
)
_ALLOWED = frozenset(
    (
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_RECURSIVE,
    )
)
_FUNCTION = sqlite3.SQLITE_FUNCTION
_ATTACH, _PRAGMA = sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_PRAGMA


# What is wrong with us rather than with the statement; the worker need not end of it.
_OURS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    sqlite3.Error,
)


class _TooLongError(Exception):
    """The statement has used up its CPU time."""


class Service:
    """Answers requests; an engine for each flavour."""

    def __init__(self):
        self._engines: dict[Flavour, Engine] = {}
        self._late = False
        signal.signal(signal.SIGPROF, self._stop)

    def answer(self, request: dict, image: bytes) -> tuple[dict, bytes]:
        """The answer to one request.

        Args:
          request: `op` (open, run, state), `flavour`, `cpu_s` (seconds for it) and
            what the operation needs.
          image: the database.

        Returns:
          `text`, `failed`, and where the database changed `catalog` and its image.
        """
        self._late = False
        # Again and again: one exception may be lost in a callback of SQLite.
        signal.setitimer(signal.ITIMER_PROF, request["cpu_s"], 0.1)
        try:
            return self._answer(request, image)
        except MySQLError as error:
            return {"text": str(error), "failed": True}, b""
        except (_TooLongError, MemoryError, RecursionError, *_OURS) as error:
            self._engines.clear()  # a connection may have been left in the middle
            return {"text": str(_in_mysql(error)), "failed": True}, b""
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _answer(self, request: dict, image: bytes) -> tuple[dict, bytes]:
        engine = self._engine(Flavour(request["flavour"]))
        if request["op"] == "open":
            state = engine.open(request["name"], request["columns"], request["rows"])
            return _changed("", state)
        state = State(request["catalog"], image)
        if request["op"] == "state":
            return {
                "text": engine.hash(state, request["columns"]),
                "failed": False,
            }, b""
        text, after = engine.run(state, request["sql"], request["now"], request["seed"])
        if after is None:
            return {"text": text, "failed": False}, b""
        return _changed(text, after)

    def _engine(self, flavour: Flavour) -> Engine:
        if flavour not in self._engines:
            self._engines[flavour] = Engine(flavour, self._guard)
        return self._engines[flavour]

    def _guard(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA hard_heap_limit = {HEAP_BYTES}")
        connection.set_progress_handler(lambda: self._late, _STEPS)
        connection.set_authorizer(_authorised)

    def _stop(self, number, frame) -> None:
        self._late = True
        raise _TooLongError


def _authorised(action, first, second, database, trigger) -> int:
    """SQLite's question whether it may do something."""
    if action in _ALLOWED:
        return sqlite3.SQLITE_OK
    if action == _FUNCTION:
        if second.startswith("m_") or second.lower() in _FUNCTIONS:
            return sqlite3.SQLITE_OK
    # Restoring an image is an ATTACH of this name to SQLite; no statement of ours is.
    # Writing one down asks for the number of its pages.
    if (action, first) in ((_ATTACH, "x"), (_PRAGMA, "page_count")):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _changed(text: str, state: State) -> tuple[dict, bytes]:
    return {"text": text, "failed": False, "catalog": state.catalog}, state.image


def _in_mysql(error: BaseException) -> MySQLError:
    if isinstance(error, _TooLongError):
        return MySQLError(
            3024,
            "Query execution was interrupted, maximum statement execution time "
            "exceeded",
        )
    if isinstance(error, RecursionError):
        return MySQLError(1436, "Thread stack overrun")
    if isinstance(error, MemoryError):
        return MySQLError(1041, "Out of memory")
    return MySQLError(1105, f"Unknown error ({type(error).__name__})")


def _exactly(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            os._exit(0)  # nobody asks any more
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _limit() -> None:
    """No more memory, processes, files or output than this needs."""
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_NPROC: 1,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for number, value in limits.items():
        hard = resource.getrlimit(number)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(number, (value, value))


def main() -> None:
    """Answers until nobody asks any more."""
    service = Service()
    _limit()
    sys.setrecursionlimit(4000)
    while True:
        sizes = _FRAME.unpack(_exactly(_FRAME.size))
        data = _exactly(sum(sizes))
        request = json.loads(data[: sizes[0]])
        header, blob = service.answer(request, data[sizes[0] :])
        text = json.dumps(header).encode()
        view = memoryview(_FRAME.pack(len(text), len(blob)) + text + blob)
        while view:
            view = view[os.write(1, view) :]
