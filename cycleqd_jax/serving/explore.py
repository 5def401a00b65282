"""Routes of the explorer: its page at /, its data and replies below /explore."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.reports.served import ADDRESSES, ServedRun
from cycleqd_jax.runs.opened import OpenedRun

_AGAIN = "10"  # seconds after which a browser looks for the first results again
_HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}


def explorer_routes(opened: OpenedRun, look_again_ms: int = 10_000) -> list[Route]:
    """The explorer of a run, finished or in progress.

    They read files and draw, so they are plain functions, which Starlette runs in
    threads. While a run has no results yet they answer 503, with the reason.

    Args:
      opened: the run.
      look_again_ms: the time after which a page of a run in progress asks again.
    """
    served = ServedRun(opened, look_again_ms)

    def page(request: Request) -> Response:
        return HTMLResponse(served.page(), headers=_HEADERS)

    def data(request: Request) -> Response:
        content, kind = served.data(), "application/json"
        return Response(content, media_type=kind, headers=_HEADERS)

    def replies(request: Request) -> Response:
        individual = request.query_params.get("individual", "")
        return JSONResponse(served.replies(individual), headers=_HEADERS)

    def question(request: Request) -> Response:
        asked = (request.query_params.get(name, "") for name in ("task", "problem"))
        return JSONResponse(served.question(*asked), headers=_HEADERS)

    return [
        Route("/", _explained(page, 503)),
        Route(f"/{ADDRESSES['data']}", _explained(data, 503)),
        Route(f"/{ADDRESSES['replies']}", _explained(replies, 404)),
        Route(f"/{ADDRESSES['question']}", _explained(question, 404)),
    ]


def _explained(
    answer: Callable[[Request], Response], status: int
) -> Callable[[Request], Response]:
    """Answers with the sentence of a `BadInputError` and a status."""

    def explained(request: Request) -> Response:
        try:
            return answer(request)
        except BadInputError as err:
            again = {"Refresh": _AGAIN, "Retry-After": _AGAIN} if status == 503 else {}
            headers = {**_HEADERS, **again}
            return PlainTextResponse(f"{err}\n", status, headers)

    return explained
