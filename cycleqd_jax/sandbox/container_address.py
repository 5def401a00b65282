"""Where Docker or Podman answers, and the SDK's client for it."""

import contextlib
import os
import pathlib
import re
import socket
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cycleqd_jax.errors import BadInputError

if TYPE_CHECKING:
    import docker

VARIABLE = "DOCKER_HOST"
SOCKETS = ("/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock")
_EXTRA = "pip install 'cycleqd-jax[container]'"
_START = (
    "start an engine (systemctl --user start podman.socket, or podman system service "
    "--time=0 unix:///tmp/podman.sock and that address as engine), or choose the "
    "backend host"
)
_FIRST_S = 10.0  # for the first answer
CALL_S = 120.0  # for every later one
_CONNECTIONS = 64  # kept open at most


def addresses(
    given: str | None, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Where an engine may answer, best first.

    Args:
      given: the only one, unless None.
      environment: its DOCKER_HOST is the next choice, and then the sockets of Docker
        and Podman that are there, the user's own one behind the system's.

    Raises:
      BadInputError: there is none, or it is none of unix:// and tcp://.
    """
    name, only = ("engine", given) if given else (VARIABLE, environment.get(VARIABLE))
    if only:
        if not re.fullmatch(r"unix:///.+|tcp://.+", only):
            raise BadInputError(
                f"sandbox: {name} is {only!r}, expected the address of an engine's "
                "API, like unix:///run/podman/podman.sock or tcp://localhost:2375"
            )
        return [only]
    paths = list(SOCKETS)
    if user := environment.get("XDG_RUNTIME_DIR"):
        paths.append(f"{user}/podman/podman.sock")
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                found.append(str(pathlib.Path(path).resolve()))
    if not found:
        raise BadInputError(
            "sandbox: the backend container needs Docker or Podman, but "
            f"{VARIABLE} is not set and none of {', '.join(paths)} is there; {_START}"
        )
    return [f"unix://{path}" for path in dict.fromkeys(found)]


def connect(given: str | None) -> tuple[str, "docker.APIClient"]:
    """The first of `addresses` that answers, and a client for it.

    Raises:
      BadInputError: none does, or the SDK is not installed.
    """
    try:
        import docker
    except ImportError as error:
        raise BadInputError(
            "sandbox: the backend container needs the Python package docker; install "
            f"the extra with {_EXTRA}, or choose the backend host"
        ) from error
    failures = []
    for address in addresses(given):
        try:
            _knock(address)
            client = docker.APIClient(
                address, "auto", timeout=_FIRST_S, max_pool_size=_CONNECTIONS
            )
        except (docker.errors.DockerException, OSError) as error:
            failures.append(f"{address} ({str(error)[-200:]})")
            continue
        client.timeout = CALL_S
        return address, client
    raise BadInputError(
        f"sandbox: no engine answers at {', '.join(failures)}; {_START}"
    )


def _knock(address: str) -> None:
    """Whether somebody listens, since the SDK leaves a socket open where nobody does.

    Raises:
      OSError: nobody does.
    """
    scheme, _, path = address.partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as made:
            made.settimeout(_FIRST_S)
            made.connect(path)
