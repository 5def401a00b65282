"""Refuses requests from strangers and counts all requests."""

import hmac

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cycleqd_jax.serving.errors import ApiError
from cycleqd_jax.serving.metrics import GONE, Metrics
from cycleqd_jax.serving.settings import LOOPBACK, ServeSettings

_GUARDED = ("/v1/", "/metrics")
# Labels of the metrics; a client could make up paths without end.
_COUNTED = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health",
            "/metrics")  # fmt: skip


class Guard:
    """Middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics):
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with an error."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"]
        label = next((p for p in _COUNTED if path.startswith(p)), "other")
        scope.setdefault("state", {})["broken_off"] = False
        try:
            headers = {k.lower(): v.decode("latin-1") for k, v in scope["headers"]}
            error = self._refusal(path, headers)
            if error is None:
                await self._app(scope, receive, watched)
            else:
                response = JSONResponse(error.body, error.status)
                await response(scope, receive, watched)
        except Exception:
            status = 500  # as it will be answered, or broken off
            raise
        finally:
            if scope["state"]["broken_off"]:
                status = GONE
            self._metrics.requests[label, status] += 1

    def _refusal(self, path: str, headers: dict[bytes, str]) -> ApiError | None:
        settings = self._settings
        host = _name(headers.get(b"host", ""))
        known = {*LOOPBACK, settings.host, *settings.allowed_hosts}
        if settings.is_local and host not in known:
            return ApiError(
                403,
                f"The host {host!r} is not known here; call this server by "
                f"{settings.host}, or add the name with allowed_hosts.",
            )
        if settings.api_key is None or not path.startswith(_GUARDED):
            return None
        kind, _, key = headers.get(b"authorization", "").partition(" ")
        given, wanted = key.strip().encode(), settings.api_key.encode()
        if kind.lower() == "bearer" and hmac.compare_digest(given, wanted):
            return None
        return ApiError(
            401,
            "The API key is missing or wrong; send it as Authorization: Bearer KEY.",
            kind="authentication_error",
            code="invalid_api_key",
        )


def _name(host: str) -> str:
    """The name in a Host header, without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
