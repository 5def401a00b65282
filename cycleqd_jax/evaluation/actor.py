"""An evaluator in a process of its own, and the light actor that owns the process.

The actor only moves bytes. It never imports JAX, so it holds no accelerator; where the
evaluator's process dies, the actor lives and says so. Where the actor dies, the process
reads the end of its pipe and dies too, at once, whatever it is doing.

Both are plain Python: Ray makes an actor of the class where there is a cluster.
"""

import contextlib
import fcntl
import importlib
import multiprocessing
import os
import pathlib
import pickle
import platform
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from cycleqd_jax.errors import BadInputError, CycleQDError, RunError

_START = (
    "import sys; sys.path[:] = {path!r}; "
    "from cycleqd_jax.evaluation.actor import serve; serve({pipe})"
)
_TPU_LOCK = pathlib.Path("/tmp/libtpu_lockfile")
_CLOSE = b""
CLOSING_S = 30


class LostError(RunError):
    """The process of an evaluator died; what it was asked must be asked again."""


class Source(NamedTuple):
    """The way to make an evaluator in another process.

    Attributes:
      function: "package.module:function"; it returns a context manager that gives the
        evaluator and facts about it.
      arguments: its keyword arguments; plain data.
    """

    function: str
    arguments: Mapping[str, Any]


class EvaluatorActor:
    """Owns the process of one evaluator; calls come one at a time."""

    def __init__(self):
        """Starts the process, which waits for a `Source`; it has this one's path."""
        remove_stale_lock(_TPU_LOCK)
        self._pipe, theirs = multiprocessing.Pipe()
        command = _START.format(path=sys.path, pipe=theirs.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def host(self) -> str:
        """The name of this host."""
        return platform.node()

    def call(self, request: bytes) -> bytes:
        """Passes what `as_request` made on; returns what `value_of` reads."""
        try:
            self._pipe.send_bytes(request)
            return self._pipe.recv_bytes()
        except (EOFError, OSError):
            code = self._process.wait()
            return pickle.dumps((LostError, f"its process ended with code {code}"))

    def close(self) -> None:
        """Ends the process: what it opened is closed first, as far as time permits."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._pipe.send_bytes(_CLOSE)
            self._process.wait(CLOSING_S)
        self._process.kill()
        self._process.wait()


def remove_stale_lock(path: pathlib.Path) -> None:
    """Removes libtpu's lock file, which a killed process leaves, if nobody holds it.

    With the file of a dead process in place the TPU is refused to the next one.
    """
    with contextlib.suppress(OSError):  # there is none, or it is another user's
        with open(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def as_request(method: str, *args: Any, **kwargs: Any) -> bytes:
    """A call of an evaluator's method."""
    return pickle.dumps((method, args, kwargs))


def value_of(reply: bytes) -> Any:
    """The value that a call returned.

    Raises:
      BadInputError: the call raised it.
      RunError: the call raised this or anything else.
      LostError: the process died before it answered.
    """
    failure, value = pickle.loads(reply)
    if failure is not None:
        raise failure(value)
    return value


def serve(pipe: int) -> None:
    """The evaluator's process: makes it from a `Source`, then answers calls.

    Args:
      pipe: the descriptor of its end of the actor's pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver
    connection, requests = Connection(pipe), queue.SimpleQueue()
    arguments = (connection, requests)
    threading.Thread(target=_read, args=arguments, daemon=True).start()
    with contextlib.ExitStack() as stack:
        evaluator = None

        def open_evaluator(source: Source) -> Any:
            nonlocal evaluator
            module, _, name = source.function.partition(":")
            function = getattr(importlib.import_module(module), name)
            evaluator, facts = stack.enter_context(function(**source.arguments))
            return facts

        while (request := requests.get()) != _CLOSE:
            method, args, kwargs = pickle.loads(request)
            call = open_evaluator if evaluator is None else getattr(evaluator, method)
            connection.send_bytes(_reply(call, args, kwargs))


def _read(connection: Connection, requests: queue.SimpleQueue) -> None:
    """Takes requests until the actor is gone; then this process ends at once."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            requests.put(connection.recv_bytes())
    os.kill(os.getpid(), signal.SIGKILL)


def _reply(call: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """The result of a call: (None, value) or (class of the error, its text)."""
    try:
        return pickle.dumps((None, call(*args, **kwargs)))
    except CycleQDError as err:
        kind = BadInputError if isinstance(err, BadInputError) else RunError
        return pickle.dumps((kind, str(err)))
    except Exception as err:  # noqa: BLE001 - the driver says what it was
        traceback.print_exc()
        return pickle.dumps((RunError, f"{type(err).__name__}: {err}"))
