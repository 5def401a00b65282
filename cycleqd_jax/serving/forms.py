"""Answers in OpenAI's form: chat completions and completions, whole and in chunks."""

import abc
import itertools
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from cycleqd_jax.inference.requests import Top
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.serving.replies import Answer, Job, Piece


class Form(abc.ABC):
    """The form of one response.

    Attributes:
      prefix: of its id.
      kind: its `object`, and that of a chunk.
    """

    prefix: str
    kind: tuple[str, str]

    def __init__(self, model: str, job: Job, tokenizer: ChatTokenizer, top: int | None):
        """Begins a response.

        Args:
          model: its name, as it was asked for.
          job: what was asked.
          tokenizer: the model's.
          top: how many most likely tokens to show; None shows no log-probabilities.
        """
        self._job, self._tokenizer, self._top = job, tokenizer, top
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The response with all replies."""
        choices = [self._choice(i, answer) for i, answer in enumerate(answers)]
        usage = self.usage(answers)
        return self._head | {"object": self.kind[0], "choices": choices, "usage": usage}

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One event of a stream."""
        return self._head | {"object": self.kind[1], "choices": choices, **more}

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The counts of tokens; a prompt with several replies counts once."""
        prompts = self._job.units[:: self._job.replies_each]
        prompt = sum(len(unit.prompt) for unit in prompts)
        replies = [a.generation for a in answers if a.generation is not None]
        completion = sum(len(reply.tokens) for reply in replies)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    @abc.abstractmethod
    def opening(self) -> Iterator[dict[str, Any]]:
        """Choices of the first chunks."""

    @abc.abstractmethod
    def deltas(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Choices of the chunks for the next piece of a reply."""

    @abc.abstractmethod
    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """A whole reply."""

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def _places(
        self, tokens: Sequence[int], logprobs: Sequence[float], top: Sequence[Top]
    ) -> Iterator[tuple[int, float, Top]]:
        """Each token, its log-probability and the most likely tokens in its place."""
        for token, own, likely in itertools.zip_longest(
            tokens, logprobs, top, fillvalue=()
        ):
            # One number for one token, whichever program computed it.
            shown = ((t, own if t == token else p) for t, p in likely[: self._top])
            yield token, own, tuple(shown)


class ChatForm(Form):
    """The form of `/v1/chat/completions`."""

    prefix, kind = "chatcmpl", ("chat.completion", "chat.completion.chunk")

    def opening(self) -> Iterator[dict[str, Any]]:
        """The role of every reply."""
        for index in range(len(self._job.units)):
            yield self._delta(index, {"role": "assistant", "content": ""})

    def deltas(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """The text, then the end."""
        if piece.text or (piece.tokens and self._top is not None):
            logprobs = self._logprobs(piece.tokens, piece.logprobs, piece.top)
            yield self._delta(piece.index, {"content": piece.text}, logprobs)
        if piece.answer is not None:
            finish = str(piece.answer.generation.finish)
            yield self._delta(piece.index, {}, finish=finish)

    def _delta(self, index, delta, logprobs=None, finish=None) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        got = answer.generation
        return {
            "index": index,
            "message": {"role": "assistant", "content": got.text, "refusal": None},
            "logprobs": self._logprobs(got.tokens, got.logprobs, got.top),
            "finish_reason": str(got.finish),
        }

    def _logprobs(self, tokens, logprobs, top) -> dict[str, Any] | None:
        if self._top is None:
            return None
        content = [
            self._entry(token, own)
            | {"top_logprobs": [self._entry(*one) for one in likely]}
            for token, own, likely in self._places(tokens, logprobs, top)
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        # A part of a character has no text of its own.
        own = None if "\ufffd" in text else list(text.encode("utf-8"))
        return {"token": text, "logprob": logprob, "bytes": own}


class CompletionForm(Form):
    """The form of `/v1/completions`.

    The arguments are those of `Form`, and `echoes`: the text of each prompt, to be
    shown in front of its replies; None shows none.
    """

    prefix, kind = "cmpl", ("text_completion", "text_completion")

    def __init__(self, model, job, tokenizer, top, echoes: Sequence[str] | None):
        super().__init__(model, job, tokenizer, top)
        self._echoes = echoes
        self._shown: dict[int, int] = {}  # characters of a stream's replies so far

    def opening(self) -> Iterator[dict[str, Any]]:
        """No chunks: an echoed prompt comes with the first piece of its reply."""
        return iter(())

    def deltas(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """One chunk; the first has the prompt in front where it is echoed."""
        index, answer = piece.index, piece.answer
        start = self._shown.get(index, 0)
        text = piece.text
        given = piece.tokens, piece.logprobs, piece.top
        if index not in self._shown and self._echoes is not None:
            text = self._echoes[index] + text
            given = self._with_prompt(index, answer, *given)
        self._shown[index] = start + len(text)
        finish = answer and self._finish(answer)
        yield self._form(index, text, self._logprobs(*given, start), finish)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        got = answer.generation
        text = got.text if got else ""
        given = (got.tokens, got.logprobs, got.top) if got else ((), (), ())
        if self._echoes is not None:
            text = self._echoes[index] + text
            given = self._with_prompt(index, answer, *given)
        logprobs = self._logprobs(*given, 0)
        return self._form(index, text, logprobs, self._finish(answer))

    def _form(self, index, text, logprobs, finish) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish,
        }

    def _finish(self, answer: Answer) -> str:
        return str(answer.generation.finish) if answer.generation else "length"

    def _with_prompt(self, index, answer, tokens, logprobs, top):
        """The tokens of prompt and reply; the first of a prompt has no probability."""
        prompt, scored = self._job.units[index].prompt, answer and answer.scored
        own = scored.logprobs if scored else ()
        likely = scored.top if scored else ()
        empty = ((),) * (len(prompt) - len(likely))
        return (
            [*prompt, *tokens],
            [None] * (len(prompt) - len(own)) + [*own, *logprobs],
            [*empty, *likely, *top],
        )

    def _logprobs(self, tokens, logprobs, top, start: int) -> dict[str, Any] | None:
        if self._top is None:
            return None
        texts = [self._text(token) for token in tokens]
        offsets = itertools.accumulate(map(len, texts[:-1]), initial=start)
        return {
            "tokens": texts,
            "token_logprobs": list(logprobs),
            "top_logprobs": [
                self._likely(*place) for place in self._places(tokens, logprobs, top)
            ],
            "text_offset": list(offsets)[: len(texts)],
        }

    def _likely(self, token: int, own: float | None, likely: Top) -> dict | None:
        """Text -> log-probability; of tokens of one text that of the most likely."""
        if own is None:
            return None
        found: dict[str, float] = {}
        for one, logprob in (*likely, (token, own)):
            text = self._text(one)
            found[text] = max(found.get(text, logprob), logprob)
        return found
