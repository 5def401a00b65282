"""Runs an application with uvicorn until a signal ends it."""

import socket

import uvicorn
from starlette.types import ASGIApp

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.serving.settings import ServeSettings

_CONNECTIONS = 512  # at once; each may hold a request
_FAREWELL_S = 2  # for running replies, once the server is to end
_KEPT_S = 75  # an idle connection; longer than clients keep theirs


def listen(settings: ServeSettings) -> socket.socket:
    """A socket that listens at the address of the settings.

    No other server gets the address from now on; who connects waits until the socket is
    served.

    Raises:
      BadInputError: the address is unknown or taken.
    """
    kind = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(kind, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((settings.host, settings.port))
        found.listen(_CONNECTIONS)
    except OSError as err:
        found.close()
        raise BadInputError(
            f"port: {settings.host}:{settings.port} cannot be listened on "
            f"({err.strerror}); choose another with --host or --port, 0 takes a free "
            "one."
        ) from err
    return found


def make_server(app: ASGIApp) -> uvicorn.Server:
    """A server that is quiet but for errors; `run(sockets=[...])` serves."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,
            log_level="error",
            lifespan="on",
            ws="none",
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_KEPT_S,
            timeout_graceful_shutdown=_FAREWELL_S,
            server_header=False,
        )
    )
