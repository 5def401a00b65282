"""Finds the API of Docker or Podman and connects the SDK to it."""

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
_FIRST_S = 10.0  # timeout of the first call
CALL_S = 120.0  # timeout of later calls
_CONNECTIONS = 64  # most that are kept open


def addresses(
    given: str | None, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Addresses at which an engine may answer, in the order to try them.

    Args:
      given: the only address, unless None.
      environment: otherwise its DOCKER_HOST is the only one; without that, the existing
        sockets of Docker and Podman, the system's before the user's.

    Raises:
      BadInputError: there is none, or the address is neither unix:// nor tcp://.
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
      BadInputError: no engine answers, or the SDK is not installed.
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
            _check_listens(address)
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


def _check_listens(address: str) -> None:
    """Connects to a Unix socket, since the SDK leaks a socket if nobody listens.

    Raises:
      OSError: nobody listens.
    """
    scheme, _, path = address.partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_FIRST_S)
            connection.connect(path)
