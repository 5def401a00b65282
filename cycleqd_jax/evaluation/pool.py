"""The evaluators on a Ray cluster: they join, work, are lost and are replaced.

Every evaluator is an actor (`actor.py`), and takes its share of a host's resources. As
many are started as the hosts have room for, so a host that joins the cluster gets its
own, and one that leaves takes its own away. There is no thread that watches: whoever
waits for an evaluator looks after all of them.
"""

import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.evaluation.actor import (
    CLOSING_S,
    EvaluatorActor,
    LostError,
    Source,
    as_request,
    value_of,
)
from cycleqd_jax.evaluation.ray_settings import RaySettings

_TRIES = 3  # of a call, and of evaluators that end while they start
_TICK_S = 0.2
_CONNECT_S = 10


class Pool:
    """Evaluators of one kind; use it as a context manager."""

    def __init__(
        self,
        settings: RaySettings,
        source: Source,
        *,
        check: Callable[[Any], str | None],
        note: Callable[[str], None],
    ):
        """Connects to nothing yet.

        Args:
          settings: of the cluster.
          source: makes an evaluator.
          check: what is wrong with an evaluator, from its facts; None lets it work.
          note: is told in a sentence of evaluators that are lost or left out. It may be
            called from any thread.
        """
        self._settings = settings
        self._source = as_request("open", source)
        self._check = check
        self._note = note
        self._ray: Any = None
        self._kind: Any = None  # class of the actors, with what each takes of its host
        self._lock = threading.Condition()
        self._starting: dict[Any, tuple[Any, Any]] = {}  # facts -> (actor, its host)
        self._idle: list[Any] = []
        self._busy: list[Any] = []
        self._left_out: list[Any] = []  # they keep their place, so no other takes it
        self._failures = 0  # of evaluators that started, one after the other
        self._seen = 0.0  # when there was an evaluator
        self._is_closed = False

    def __enter__(self) -> "Pool":
        """Connects to the cluster.

        Raises:
          BadInputError: Ray is not installed, there is no such cluster, or none of its
            hosts has what an evaluator takes.
        """
        self._ray = connect(self._settings.address)
        if not self._room():
            hosts = [node["Resources"] for node in self._nodes()]
            known = {k: v for one in hosts for k, v in one.items() if ":" not in k}
            self._ray.shutdown()
            raise BadInputError(
                f"ray.resources: no host of the cluster has {_listed(self._needs)}; "
                f"there are {len(hosts)} hosts, with up to {_listed(known)}."
            )
        needs = dict(self._needs)
        self._kind = self._ray.remote(
            num_cpus=needs.pop("CPU", 0),
            num_gpus=needs.pop("GPU", 0),
            resources=needs,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )(EvaluatorActor)
        self._seen = time.monotonic()
        return self

    def __exit__(self, *error) -> None:
        ray, starting = self._ray, [actor for actor, _ in self._starting.values()]
        with self._lock:
            self._is_closed = True
            actors = (*self._idle, *self._left_out, *self._busy, *starting)
            closing = [actor.close.remote() for actor in self._idle]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=CLOSING_S)
            for actor in actors:
                ray.kill(actor)
            ray.shutdown()

    @property
    def size(self) -> int:
        """The number of evaluators that work or could; at least 1."""
        with self._lock:
            self._look()
            return max(1, len(self._idle) + len(self._busy))

    def start(self) -> None:
        """Waits for the evaluators that the cluster has room for now.

        Raises:
          BadInputError: `check` finds something wrong with one.
          RunError: they end while they start.
        """
        with self._lock:
            self._look()
            while not self._idle or self._placed():
                self._lock.wait(_TICK_S)
                self._look(strict=True)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of one evaluator, of another if that is lost; thread-safe.

        Raises:
          BadInputError: the method raised it.
          RunError: the method raised it, the evaluators of this call were lost again
            and again, or there is none.
        """
        request = as_request(method, *args, **kwargs)
        for _ in range(_TRIES):
            actor, lost = self._take(), None
            try:
                return value_of(self._ray.get(actor.call.remote(request)))
            except (self._ray.exceptions.RayError, LostError) as err:
                lost = err
            finally:
                self._give_back(actor, lost)
        raise RunError(
            f"ray: {_TRIES} evaluators were lost one after the other with the same "
            "children; look for the reason in Ray's logs, which may be memory that "
            "does not suffice, then go on with --resume."
        )

    def _take(self) -> Any:
        """Waits for an evaluator that lives and has nothing to do."""
        while True:
            with self._lock:
                self._look()
                while not self._idle:
                    self._lock.wait(_TICK_S)
                    self._look()
                actor = self._idle.pop(0)
                self._busy.append(actor)
            try:
                self._ray.get(actor.host.remote())
            except self._ray.exceptions.RayError as err:
                self._give_back(actor, err)  # it was lost while it had nothing to do
            else:
                return actor

    def _give_back(self, actor: Any, lost: Exception | None) -> None:
        with self._lock:
            if self._is_closed:
                raise RunError("ray: the run was ended.")
            self._busy.remove(actor)
            self._seen = time.monotonic()
            if lost is None:
                self._idle.append(actor)
                self._lock.notify()
                return
            self._ray.kill(actor)
            reason = _reason(lost)
        self._note(f"an evaluator was lost ({reason}); what it had is evaluated again.")

    def _look(self, strict: bool = False) -> None:
        """Lets those work that have started, and starts more where there is room.

        Args:
          strict: whether an evaluator that must not work is an error.
        """
        if self._is_closed:
            raise RunError("ray: the run was ended.")
        refs = list(self._starting)
        done = self._ray.wait(refs, num_returns=len(refs), timeout=0)[0] if refs else ()
        for facts in done:
            actor, _ = self._starting.pop(facts)
            try:
                wrong = self._check(value_of(self._ray.get(facts)))
            except (self._ray.exceptions.RayError, LostError) as err:
                self._fail(actor, err)
                continue
            except (BadInputError, RunError) as err:
                wrong = str(err)
            if wrong is None:
                self._failures = 0
                self._idle.append(actor)
                self._lock.notify()
                continue
            self._left_out.append(actor)
            actor.close.remote()
            if strict:
                raise BadInputError(wrong)
            self._note(f"an evaluator is left out: {wrong}")
        self._top_up()
        self._check_patience()

    def _top_up(self) -> None:
        most, room = self._settings.evaluators, self._room()
        wanted = room if most == "auto" else min(most, room)
        there = (self._starting, self._idle, self._busy, self._left_out)
        for _ in range(wanted - sum(map(len, there))):
            actor = self._kind.remote()
            host = actor.host.remote()  # answered when the actor has a place
            self._starting[actor.call.remote(self._source)] = (actor, host)

    def _fail(self, actor: Any, err: Exception) -> None:
        self._ray.kill(actor)
        self._failures += 1
        if self._failures >= _TRIES:
            raise RunError(
                f"ray: {_TRIES} evaluators ended while they started, the last because "
                f"{_reason(err)}; look for the reason in Ray's logs, which may be "
                "memory that does not suffice, then go on with --resume."
            ) from err

    def _check_patience(self) -> None:
        now = time.monotonic()
        if self._idle or self._busy or self._placed():
            self._seen = now
        elif now - self._seen > self._settings.patience:
            raise RunError(
                f"ray: for {self._settings.patience} seconds no host of the cluster "
                f"had {_listed(self._needs)} free for an evaluator; go on with "
                "--resume when there is one."
            )

    def _placed(self) -> bool:
        """True if an evaluator has a host and is on its way."""
        hosts = [host for _, host in self._starting.values()]
        return bool(hosts) and bool(self._ray.wait(hosts, timeout=0)[0])

    @property
    def _needs(self) -> Mapping[str, float]:
        return self._settings.resources

    def _nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """The number of evaluators that the cluster's hosts have resources for."""
        return sum(
            min(
                math.floor(node["Resources"].get(name, 0) / need)
                for name, need in self._needs.items()
            )
            for node in self._nodes()
        )


def connect(address: str) -> Any:
    """Ray, connected to a cluster.

    Raises:
      BadInputError: it is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError as err:
        raise BadInputError(
            "evaluator is ray, but the Python package ray is not installed; type: pip "
            "install ray"
        ) from err
    heard = signal.getsignal(signal.SIGTERM)
    try:
        if address != "auto":  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), _CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, OSError, RuntimeError, TimeoutError, ValueError) as err:
        raise BadInputError(
            f"ray.address: there is no cluster at {address} ({_reason(err)}); start "
            "one on this host with ray start --head, and leave ray.address out."
        ) from err
    finally:
        # Ray takes the signal, after which a command would not end as it says.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, heard)
    return ray


def _reason(err: Exception) -> str:
    """The first line of an error's text, without a full stop."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return (lines[0] if lines else type(err).__name__).rstrip(".:")


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {n:g}" for name, n in sorted(resources.items()))
