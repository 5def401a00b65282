"""The endpoint as a Starlette application."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.names import BASE
from cycleqd_jax.runs.opened import OpenedRun
from cycleqd_jax.serving.catalogue import Catalogue, Model
from cycleqd_jax.serving.desk import Desk
from cycleqd_jax.serving.endpoints import ChatEndpoint, CompletionEndpoint
from cycleqd_jax.serving.errors import FAILED, ApiError
from cycleqd_jax.serving.guard import Guard
from cycleqd_jax.serving.loading import open_desk
from cycleqd_jax.serving.metrics import CONTENT_TYPE, Metrics
from cycleqd_jax.serving.settings import ServeSettings


def make_app(
    opened: OpenedRun,
    settings: ServeSettings,
    extra_routes: Sequence[BaseRoute] = (),
    observer: Observer | None = None,
) -> Starlette:
    """Loads a run's model and makes the application that serves its individuals.

    Args:
      opened: the run, finished or not; nothing is written to it.
      settings: of the endpoint.
      extra_routes: are looked at first. They need no API key outside of `/v1/`.
      observer: hears what is loaded and compiled.

    Returns:
      The application. `app.state.catalogue` has the models.

    Raises:
      BadInputError: the run or its base model cannot be read, or the engine's sizes do
        not fit.
    """
    opened = opened.with_base(settings.base_model)
    observer = observer or Observer()
    desk, catalogue = open_desk(opened, settings, observer), Catalogue(opened)
    if settings.warm_up:
        observer.phase("computing individuals")
        for name in catalogue.models():
            catalogue.find(name)
        desk.warm_up(BASE, catalogue.find(BASE)[1], observer.note)
    return app_of(catalogue, desk, settings, extra_routes)


def app_of(
    catalogue: Catalogue,
    desk: Desk,
    settings: ServeSettings,
    extra_routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The application for models that are loaded; see `make_app`."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with desk.serving():
            yield

    def models(request: Request) -> Response:
        found = catalogue.models().values()
        data = [_entry(model, catalogue) for model in found]
        return JSONResponse({"object": "list", "data": data})

    def model(request: Request) -> Response:
        found = catalogue.model(request.path_params["name"])
        return JSONResponse(_entry(found, catalogue))

    async def health(request: Request) -> Response:
        facts = {
            "status": "ok" if desk.failure is None else desk.failure,
            "warm": desk.is_warm,
            "run": catalogue.name,
            "length": desk.engine.settings.length,
            "slots": desk.seats,
        }
        return JSONResponse(facts, 200 if desk.failure is None else 503)

    async def counters(request: Request) -> Response:
        return PlainTextResponse(metrics.text(desk), media_type=CONTENT_TYPE)

    parts = catalogue, desk, metrics, settings.max_body_bytes
    endpoints = {
        "/v1/chat/completions": ChatEndpoint(*parts),
        "/v1/completions": CompletionEndpoint(*parts),
    }
    app = Starlette(
        routes=[
            *extra_routes,
            *(Route(path, one, methods=["POST"]) for path, one in endpoints.items()),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/health", health),
            Route("/metrics", counters),
        ],
        middleware=[Middleware(Guard, settings=settings, metrics=metrics)],
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            Exception: _fault,
        },
        lifespan=lifespan,
    )
    app.state.catalogue, app.state.desk = catalogue, desk
    return app


def _entry(model: Model, catalogue: Catalogue) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": catalogue.created,
        "owned_by": catalogue.name,
        "individual": model.individual,
    }


async def _api_error(request: Request, err: Exception) -> Response:
    headers = {"Retry-After": "1"} if err.status == 429 else None
    return JSONResponse(err.body, err.status, headers)


async def _http_error(request: Request, err: Exception) -> Response:
    texts = {
        404: f"There is no {request.url.path} here; see GET /v1/models and the docs.",
        405: f"{request.url.path} does not take {request.method}.",
    }
    text = texts.get(err.status_code, err.detail)
    return JSONResponse(
        ApiError(err.status_code, text).body, err.status_code, err.headers
    )


async def _fault(request: Request, err: Exception) -> Response:
    """Answers a defect of this program; the server's log has all of it."""
    text = f"The server failed ({type(err).__name__}); its log says more."
    return JSONResponse(ApiError(500, text, kind=FAILED).body, 500)
