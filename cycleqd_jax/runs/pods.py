"""A run in several processes, one per host, whose devices make one mesh (a TPU pod).

JAX tells the processes of each other (`jax.distributed`). Process 0 carries out the
run: it alone has the run folder, the tasks and the sandbox. The others hold their
shards of weights, basis and cache, and make the device calls that it tells them of
(`inference/relay.py`).
"""

import contextlib
import dataclasses
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import connection

import jax
import numpy as np
from jax.experimental import multihost_utils

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, RunError
from cycleqd_jax.inference import relay as relays
from cycleqd_jax.inference.relay import ALONE, Alone, Leader, Lost
from cycleqd_jax.runs.followers import Follower

_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_TPU = ("TPU_ML_PLATFORM", "JAX")  # JAX sets it where it finds TPU chips
_MEETING = 1024  # bytes that all processes get from process 0
# After a device call failed, another process's death is said to be the reason if the
# kernel says so within this time.
_VERDICT_S = 10.0
_HEARTBEAT_S, _SHUTDOWN_S = 60, 30
_COORDINATOR_S = 300.0  # as long as JAX waits


@dataclasses.dataclass(frozen=True)
class Pod:
    """This process among those of its run.

    Attributes:
      relay: of process 0, to the others; `ALONE` in a run of one process.
      leader: of another process, the connection to process 0; else None.
      lost: see `joined`.
    """

    relay: Alone | Leader = ALONE
    leader: connection.Connection | None = None
    lost: Lost | None = None

    @property
    def follows(self) -> bool:
        """True if another process carries out the run, and this one follows."""
        return self.leader is not None

    def follow(self, note: Callable[[str], None]) -> None:
        """Does what process 0 tells, until it ends.

        Args:
          note: is told in a sentence what this process does.

        Raises:
          BadInputError: an input is missing here, or another one than there.
          RunError: the run failed there.
        """
        note(f"process {jax.process_index()} of {jax.process_count()} follows.")
        if not relays.follow(self.leader, Follower(self.leader).function, self.lost):
            raise RunError(
                f"{relays.LEADER} of this run ended with an error, which it says there."
            )


@contextlib.contextmanager
def joined(
    config: RunConfig, environment: Mapping[str, str], lost: Lost
) -> Iterator[Pod]:
    """Joins the other processes of a run, if it has any, until the end of the context.

    Call it before anything else that uses JAX's devices.

    Args:
      config: the settings; `distributed` decides.
      environment: variables of this process. `JAX_COORDINATOR_ADDRESS`,
        `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name the processes where JAX cannot
        find them by itself, as it can on TPU pods, Slurm, Open MPI and Kubernetes.
      lost: ends this process with a sentence; called from another thread when one of
        the processes has died, since a device call that waits for it never returns.

    Raises:
      BadInputError: the other processes cannot be found.
      RunError: they cannot be reached.
    """
    pod = Pod()
    if _is_wanted(config, environment):
        # By itself, a TPU without neighbours is no error.
        found = _initialize(environment, must=config.distributed == "on")
        if found and jax.process_count() > 1:
            pod = _meet(environment, lost)
    leads, failed = isinstance(pod.relay, Leader), True
    try:
        yield pod
        failed = False
    except jax.errors.JaxRuntimeError:
        if leads or pod.follows:
            time.sleep(_VERDICT_S)
        raise
    finally:
        if leads:
            pod.relay.close(failed=failed)
        if leads or pod.follows:
            with contextlib.suppress(RuntimeError):  # the others may be gone by now
                jax.distributed.shutdown()


def _is_wanted(config: RunConfig, environment: Mapping[str, str]) -> bool:
    if config.distributed != "auto" or config.evaluator != "local":
        return config.distributed == "on"
    platforms = jax.config.jax_platforms or ""
    on_tpu = environment.get(_TPU[0]) == _TPU[1]
    on_tpu = on_tpu and (not platforms or "tpu" in platforms)
    return on_tpu or _ENVIRONMENT[0] in environment


def _initialize(environment: Mapping[str, str], *, must: bool) -> bool:
    """Joins the cluster; False if there is none and none must be."""
    address, *numbers = (environment.get(name) for name in _ENVIRONMENT)
    for name, text in zip(_ENVIRONMENT[1:], numbers, strict=True):
        if text is not None and not text.isdecimal():
            raise BadInputError(f"{name} is {text!r}; expected a whole number.")
    count, index = (None if text is None else int(text) for text in numbers)
    is_given = None not in (address, count, index)
    if is_given and index > 0:
        _await_coordinator(address)
    # JAX would take SIGTERM from the command, which ends on it and can be resumed.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            cluster_detection_method="deactivate" if is_given else None,
            heartbeat_timeout_seconds=_HEARTBEAT_S,
            shutdown_timeout_seconds=_SHUTDOWN_S,
        )
    except (ValueError, TypeError) as err:
        if not must and address is None:
            return False
        raise BadInputError(
            f"distributed: the other processes of the run are not known "
            f"({files.reason(err)}); set {_ENVIRONMENT[0]}=HOST:PORT, "
            f"{_ENVIRONMENT[1]} and {_ENVIRONMENT[2]} for each of them, or distributed "
            "to off for a run of one process."
        ) from err
    except (RuntimeError, OSError) as err:
        raise BadInputError(
            f"distributed: the other processes of the run cannot be reached "
            f"({files.reason(err)}); start the command on all hosts, or set "
            "distributed to off for a run of one process."
        ) from err
    return True


def _await_coordinator(address: str) -> None:
    """Waits for process 0; JAX would abort the process where there is none.

    Raises:
      BadInputError: nothing answers there.
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + _COORDINATOR_S
    while True:
        try:
            with socket.create_connection((host.strip("[]"), port), timeout=5):
                return
        except OSError as err:
            if time.monotonic() > end:
                raise BadInputError(
                    f"distributed: nothing answers at {_ENVIRONMENT[0]}={address} "
                    f"({files.reason(err)}); start the command on all hosts, that with "
                    f"{_ENVIRONMENT[2]}=0 on this one."
                ) from err
            time.sleep(0.5)


def _meet(environment: Mapping[str, str], lost: Lost) -> Pod:
    """Connects the processes to process 0, whose address and secret JAX hands out."""
    index, room = jax.process_index(), np.zeros(_MEETING, np.uint8)
    if index == 0:
        server, secret = relays.listen(), secrets.token_bytes(32)
        port = server.getsockname()[1]
        facts = {
            "secret": secret.hex(),
            "addresses": [[host, port] for host in _own_hosts(environment)],
        }
        text = json.dumps(facts).encode()
        room[: len(text)] = np.frombuffer(text, np.uint8)
    room = np.asarray(multihost_utils.broadcast_one_to_all(room))
    if index == 0:
        followers = relays.accept(server, secret, jax.process_count() - 1)
        return Pod(Leader(followers, lost), lost=lost)
    facts = json.loads(room.astype(np.uint8).tobytes().rstrip(b"\0"))
    addresses = [(host, port) for host, port in facts["addresses"]]
    secret = bytes.fromhex(facts["secret"])
    return Pod(leader=relays.connect(addresses, secret, index), lost=lost)


def _own_hosts(environment: Mapping[str, str]) -> list[str]:
    """Addresses and names under which others may reach this host."""
    found = [environment.get(_ENVIRONMENT[0], "").rpartition(":")[0].strip("[]")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):  # no network
            probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the interface
            found.append(probe.getsockname()[0])
    found += [socket.gethostname(), "127.0.0.1"]
    return [host for host in dict.fromkeys(found) if host][:8]
