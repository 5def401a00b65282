"""The two endpoints that ask models: chat completions and completions."""

import abc
import asyncio
import contextlib
import json
from collections.abc import Coroutine
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.serving import protocol
from cycleqd_jax.serving.catalogue import Catalogue
from cycleqd_jax.serving.desk import Desk
from cycleqd_jax.serving.errors import ApiError
from cycleqd_jax.serving.forms import ChatForm, CompletionForm, Form
from cycleqd_jax.serving.metrics import Metrics
from cycleqd_jax.serving.replies import (
    Job,
    Piece,
    Unit,
    answer_all,
    answer_in_pieces,
    check_prompt,
)

_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # no proxy shall collect the events
)


class Endpoint(abc.ABC):
    """An ASGI application for one path; a request whose client goes away is cancelled.

    Attributes:
      kind: of its requests.
    """

    kind: type[protocol.Common]

    def __init__(
        self, catalogue: Catalogue, desk: Desk, metrics: Metrics, max_bytes: int
    ):
        self._catalogue, self._desk, self._metrics = catalogue, desk, metrics
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request.

        Raises:
          ApiError: it is refused; nothing was sent.
        """
        request = Request(scope, receive)
        media = request.headers.get("content-type", "").partition(";")[0].strip()
        if media.lower() != "application/json":
            raise ApiError(
                415,
                f"The request's content type is {media or 'missing'!r}; send JSON with "
                "the header Content-Type: application/json.",
            )
        try:
            body = await self._body(request)
        except ClientDisconnect:
            return
        asked, job, form = await asyncio.to_thread(self._read, body)
        with self._desk.room(len(job.units)):
            if asked.stream:
                work = self._stream(asked, job, form, send)
            else:
                work = self._whole(job, form, scope, receive, send)
            if not await _while_there(receive, work):
                scope["state"]["broken_off"] = True

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._max_bytes:
                raise ApiError(
                    413,
                    f"The request is too large; this server takes {self._max_bytes} "
                    "bytes at most.",
                )
        return bytes(body)

    def _read(self, body: bytes) -> tuple[protocol.Common, Job, Form]:
        """The request, checked; runs in a thread."""
        asked = protocol.parse(body, self.kind)
        model, individual = self._catalogue.find(asked.model)
        job, form = self._plan(asked, model.individual, individual)
        return asked, job, form

    @abc.abstractmethod
    def _plan(self, asked: Any, key: str, individual: Individual) -> tuple[Job, Form]:
        """The replies that a request asks for, and their form."""

    async def _whole(self, job: Job, form: Form, *connection: Any) -> None:
        answers = await answer_all(self._desk, job)
        whole = form.whole(answers)
        self._metrics.answered(whole["usage"])
        await JSONResponse(whole)(*connection)

    async def _stream(
        self, asked: protocol.Common, job: Job, form: Form, send: Send
    ) -> None:
        """Sends server-sent events; an error ends them, since the status was sent."""
        start = {"type": "http.response.start", "status": 200}
        await send(start | {"headers": list(_STREAM_HEADERS)})
        answers = []

        async def event(data: dict[str, Any] | str) -> None:
            text = data if isinstance(data, str) else json.dumps(data)
            body = f"data: {text}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def news(piece: Piece) -> None:
            for choice in form.deltas(piece):
                await event(form.chunk([choice]))
            if piece.answer is not None:
                answers.append(piece.answer)

        try:
            for choice in form.opening():
                await event(form.chunk([choice]))
            await answer_in_pieces(self._desk, job, news)
            usage = form.usage(answers)
            self._metrics.answered(usage)
            if asked.stream_options.include_usage:
                await event(form.chunk([], usage=usage))
            await event("[DONE]")
        except ApiError as err:
            await event(err.body)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _units(self, asked: protocol.Common, prompts: list[tuple]) -> tuple[Unit, ...]:
        """`asked.n` replies to each prompt."""
        samplings = iter(asked.samplings(len(prompts) * asked.n))
        return tuple(
            Unit(prompt, next(samplings)) for prompt in prompts for _ in range(asked.n)
        )

    @property
    def _tokenizer(self):
        return self._desk.engine.tokenizer

    @property
    def _length(self) -> int:
        return self._desk.engine.settings.length


class ChatEndpoint(Endpoint):
    """`/v1/chat/completions`."""

    kind = protocol.ChatRequest

    def _plan(self, asked: protocol.ChatRequest, key: str, individual: Individual):
        try:
            tokens = self._tokenizer.encode_chat([m.plain() for m in asked.messages])
        except BadInputError as err:
            raise ApiError(400, f"{err}.", param="messages") from err
        check_prompt(tokens, self._length, replies=True)
        most = asked.max_completion_tokens or asked.max_tokens or self._length
        job = Job(
            key,
            individual,
            self._units(asked, [tuple(tokens)]),
            asked.n,
            asked.limits(most),
            logprobs=asked.logprobs,
            num_top=asked.top_logprobs,
        )
        top = asked.top_logprobs if asked.logprobs else None
        return job, ChatForm(asked.model, job, self._tokenizer, top)


class CompletionEndpoint(Endpoint):
    """`/v1/completions`."""

    kind = protocol.CompletionRequest

    def _plan(
        self, asked: protocol.CompletionRequest, key: str, individual: Individual
    ):
        replies = asked.max_tokens > 0
        prompts, texts = [], []
        for given in asked.prompts:
            is_text = isinstance(given, str)
            tokens = self._tokenizer.encode_text(given) if is_text else given
            check_prompt(tokens, self._length, replies=replies)
            prompts.append(tuple(tokens))
            texts.append(given if is_text else self._decoded(given))
        if not prompts:
            raise ApiError(400, "prompt is an empty list; expected a prompt.")
        job = Job(
            key,
            individual,
            self._units(asked, prompts),
            asked.n,
            asked.limits(asked.max_tokens) if replies else None,
            logprobs=asked.logprobs is not None,
            num_top=asked.logprobs or 0,
            scores_prompts=asked.echo and asked.logprobs is not None,
        )
        echoes = [t for t in texts for _ in range(asked.n)] if asked.echo else None
        form = CompletionForm(
            asked.model, job, self._tokenizer, asked.logprobs, echoes=echoes
        )
        return job, form

    def _decoded(self, tokens: list[int]) -> str:
        """The text of token ids.

        Raises:
          ApiError: one is not in the vocabulary.
        """
        size = self._desk.engine.vocabulary_size
        wrong = [token for token in tokens if not 0 <= token < size]
        if wrong:
            raise ApiError(
                400,
                f"The prompt has a token {wrong[0]}; expected ids from 0 to "
                f"{size - 1}.",
                param="prompt",
            )
        return self._tokenizer.decode(tokens, skip_special_tokens=False)


async def _while_there(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Does some work, but cancels it when the client goes away.

    Returns:
      Whether the work was done.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
            return True
        return False
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
