"""One engine in several processes: the first tells the others what to compute.

The devices of a mesh may belong to several processes, one per host. Then each of them
must run the same programs in the same order. The first process alone decides what runs;
it tells every call to the others just before it makes it, with inputs that lie on the
host (tokens, genomes, names), and they make the same call on their shards. What is on
the devices (weights, directions, cache) never travels.

Messages are pickled Python objects, so a connection must prove to have the secret that
the processes share through JAX.
"""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from typing import Any

import jax

from cycleqd_jax.errors import BadInputError, RunError

_READY, _WRONG, _FAILED = "ready", "wrong", "failed"  # what followers say
# The last that they hear: all is done, the run failed, or another process is gone.
_END, _STOP, _GONE = "end", "stop", "gone"
# A host that lost its power sends nothing. After this many seconds of silence it is
# probed; one that does not answer the probes counts as dead.
_SILENT_S, _PROBE_S, _PROBES = 10, 5, 4
_CONNECTED_S = 120.0
_FAREWELL_S = 1.0  # for the others to end before process 0, whose end JAX notices
LEADER = "process 0"

Lost = Callable[[str], None]  # ends this process with a sentence, from any thread


class Alone:
    """The relay of a process that has the whole mesh."""

    @contextlib.contextmanager
    def telling(self, call: str, *arguments: Any) -> Iterator[None]:
        """Nobody need be told."""
        yield

    def plain(self, tree: Any) -> Any:
        """The same."""
        return tree


ALONE = Alone()


class Leader:
    """The relay of the process that decides; closed by `close`."""

    def __init__(self, followers: Mapping[int, connection.Connection], lost: Lost):
        """Begins to hear the followers.

        Args:
          followers: process -> connection to it.
          lost: is called, once, with a sentence when one of them has died.
        """
        self._followers = followers
        self._lost = lost
        self._lock = threading.Lock()
        self._losing = threading.Lock()
        self._replies: queue.Queue[tuple[str, str]] = queue.Queue()
        self._waiting = self._closing = False
        for index, one in followers.items():
            hear = threading.Thread(target=self._hear, args=(index, one), daemon=True)
            hear.start()

    @contextlib.contextmanager
    def telling(self, call: str, *arguments: Any) -> Iterator[None]:
        """Tells all followers of a call, and keeps others from being told meanwhile.

        What is done within the context is done in the same order in all processes.
        """
        with self._lock:
            for index in self._followers:
                self.send(index, call, *arguments)
            yield

    def send(self, index: int, call: str, *arguments: Any) -> None:
        """Tells one follower of a call.

        Raises:
          RunError: it is gone.
        """
        try:
            self._followers[index].send((call, arguments))
        except OSError as err:
            self._lose(_gone(f"process {index}"))
            raise RunError(_gone(f"process {index}")) from err

    def plain(self, tree: Any) -> Any:
        """A copy on the host, which every process can use beside arrays of a mesh."""
        return jax.device_get(tree)

    @property
    def indices(self) -> tuple[int, ...]:
        """Numbers of the followers."""
        return tuple(self._followers)

    def wait(self) -> None:
        """Waits until every follower is ready for calls of the engine.

        Raises:
          BadInputError: an input of one of them is missing, damaged or another one.
        """
        self._waiting = True
        for _ in self._followers:
            kind, text = self._replies.get()
            if kind != _READY:
                raise (BadInputError if kind == _WRONG else RunError)(text)
        self._waiting = False

    def close(self, *, failed: bool) -> None:
        """Ends the followers; `failed` is whether they are to say that the run did."""
        self._closing = True
        for one in self._followers.values():
            with contextlib.suppress(OSError):
                one.send((_STOP if failed else _END, ()))

    def _hear(self, index: int, one: connection.Connection) -> None:
        name = f"process {index}"
        try:
            while True:
                kind, text = one.recv()
                if kind == _FAILED and not self._waiting:
                    self._lose(f"{name}: {text}")
                self._replies.put((kind, f"{name}: {text}"))
        except (EOFError, OSError):
            if not self._closing:
                self._lose(_gone(name))

    def _lose(self, sentence: str) -> None:
        """Ends all processes, for the first of several reasons."""
        with self._losing:
            if self._closing:
                return
            self._closing = True
            for one in self._followers.values():
                with contextlib.suppress(OSError):
                    one.send((_GONE, (sentence,)))
            time.sleep(_FAREWELL_S)
            self._lost(sentence)


def follow(
    leader: connection.Connection,
    calls: Callable[[str], Callable[..., None]],
    lost: Lost,
) -> bool:
    """Makes the calls of the first process until it ends.

    Args:
      leader: the connection to it.
      calls: gives the function of a call's name.
      lost: is called with a sentence when that process has died.

    Returns:
      Whether the run ended as it should.

    Raises:
      Exception: of a call; the first process was told.
    """
    told: queue.Queue[tuple[str, tuple]] = queue.Queue()

    def hear() -> None:
        try:
            call = ""
            while call not in (_END, _STOP):
                call, arguments = leader.recv()
                if call == _GONE:
                    lost(*arguments)
                    return
                told.put((call, arguments))
        except (EOFError, OSError):
            lost(_gone(LEADER))

    threading.Thread(target=hear, daemon=True).start()
    while True:
        call, arguments = told.get()
        if call in (_END, _STOP):
            return call == _END
        try:
            calls(call)(*arguments)
        except Exception as err:
            kind = _WRONG if isinstance(err, BadInputError) else _FAILED
            text = " ".join(str(err).split()) or type(err).__name__
            with contextlib.suppress(OSError):  # it may be gone
                leader.send((kind, text))
            raise


def say_ready(leader: connection.Connection) -> None:
    """Tells the first process that calls of the engine may come."""
    leader.send((_READY, ""))


def listen() -> socket.socket:
    """A socket that followers connect to, on every address of this host."""
    return socket.create_server(("", 0), backlog=128)


def accept(
    server: socket.socket, secret: bytes, count: int
) -> dict[int, connection.Connection]:
    """Connections to all followers, by their numbers.

    Args:
      server: from `listen`; it is closed.
      secret: that the processes share.
      count: of followers.

    Raises:
      RunError: one does not come.
    """
    found: dict[int, connection.Connection] = {}
    end = time.monotonic() + _CONNECTED_S
    with server:
        while len(found) < count:
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                one = _connection(server.accept()[0])
                connection.deliver_challenge(one, secret)
                connection.answer_challenge(one, secret)
                found[one.recv()] = one
            except connection.AuthenticationError:  # a stranger
                continue
            except (OSError, EOFError) as err:
                if time.monotonic() < end:
                    continue
                raise RunError(
                    f"distributed: {count - len(found)} processes did not connect to "
                    f"{LEADER} in {_CONNECTED_S:.0f} s; see that the hosts reach each "
                    "other."
                ) from err
    return found


def connect(
    addresses: Sequence[tuple[str, int]], secret: bytes, index: int
) -> connection.Connection:
    """The connection to the first process.

    Args:
      addresses: where it may listen; the first that answers is taken.
      secret: that the processes share.
      index: the number of this process.

    Raises:
      RunError: none answers.
    """
    end = time.monotonic() + _CONNECTED_S
    while time.monotonic() < end:
        for address in addresses:
            try:
                leader = _connection(socket.create_connection(address, timeout=10))
                connection.answer_challenge(leader, secret)
                connection.deliver_challenge(leader, secret)
            except (OSError, EOFError, connection.AuthenticationError):
                continue
            leader.send(index)
            return leader
        time.sleep(0.5)
    raise RunError(
        f"distributed: {LEADER} does not answer at "
        f"{' or '.join(f'{host}:{port}' for host, port in addresses)}; see that the "
        "hosts reach each other."
    )


def _connection(raw: socket.socket) -> connection.Connection:
    """A connection of messages, which ends where the host at the other end is gone."""
    raw.settimeout(None)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _SILENT_S),
        ("TCP_KEEPINTVL", _PROBE_S),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", 1000 * (_SILENT_S + _PROBE_S * _PROBES)),
    ):
        if hasattr(socket, option):  # macOS has others
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return connection.Connection(raw.detach())


def _gone(name: str) -> str:
    return (
        f"{name} of this run is gone (it died, or its host cannot be reached any more);"
        " start all processes again with --resume."
    )
