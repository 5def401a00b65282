"""The requests that the endpoint takes: OpenAI's, as far as the engine has a meaning.

A field that is null counts as left out. Fields that could only change how OpenAI keeps
books are taken and ignored; fields that would change the reply in a way the engine does
not have are refused by name.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import Field

from cycleqd_jax.errors import explain, show
from cycleqd_jax.files import Section, Text, Whole, parse_json
from cycleqd_jax.inference.requests import Limits, Sampling
from cycleqd_jax.serving.errors import ApiError
from cycleqd_jax.serving.settings import MOST_TOP

_IGNORED = {
    *("user", "metadata", "store", "service_tier", "safety_identifier"),
    *("prompt_cache_key", "parallel_tool_calls"),
}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {  # these values change nothing
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none",),
    "modalities": (["text"],),
    "suffix": ("",),
    "best_of": (1,),
}

Prompt = str | list[int] | list[str] | list[list[int]]


class StreamOptions(Section):
    """Options of a stream.

    Attributes:
      include_usage: whether the last event counts the tokens.
      include_obfuscation: ignored.
    """

    include_usage: bool = False
    include_obfuscation: bool = False


class Common(Section):
    """The fields that both kinds of requests have.

    Attributes:
      model: the individual's name.
      temperature: 0, the default, is greedy: replies are those that the run scored.
      top_p: only the smallest set of tokens whose probabilities add up to p.
      seed: of the draws; a random one by default.
      n: replies to each prompt.
      stop: texts that end a reply and are none of it.
      stream: whether the reply comes as server-sent events.
      stream_options: of the stream.
    """

    model: Text
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stop: Text | Annotated[list[Text], Field(max_length=32)] = Field([])
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    def limits(self, max_new_tokens: int) -> Limits:
        """Limits of every reply."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        return Limits(max_new_tokens, tuple(stop))

    def samplings(self, count: int) -> list[Sampling]:
        """The sampling of each of `count` replies, which differ by their seeds."""
        first = secrets.randbits(32) if self.seed is None else self.seed
        # An odd number near 2**32 divided by the golden ratio spreads the seeds.
        return [
            Sampling(
                self.temperature,
                top_p=self.top_p,
                seed=(first + 0x9E3779B1 * i) % 2**32,
            )
            for i in range(count)
        ]


class ChatMessage(Section):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str = ""

    @pydantic.field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        """The text of a list of parts."""
        if not isinstance(content, list):
            return content
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        kinds = [part.get("type") for part in content if isinstance(part, dict)]
        if len(texts) < len(content) or not all(isinstance(t, str) for t in texts):
            raise ValueError("expected a text, or parts of type text with a text each")
        if any(kind != "text" for kind in kinds):
            raise ValueError("expected parts of type text only")
        return "".join(texts)

    def plain(self) -> dict[str, str]:
        """The message as chat templates know it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


class ChatRequest(Common):
    """A request to `/v1/chat/completions`.

    Attributes:
      messages: the conversation. If the last is the assistant's, the reply continues
        it.
      max_tokens: limit of the reply; by default what the engine's length leaves.
      max_completion_tokens: its newer name.
      logprobs: whether to return log-probabilities.
      top_logprobs: how many of the most likely tokens to return in each place.
    """

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Whole | None = None
    max_completion_tokens: Whole | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] = 0

    @pydantic.model_validator(mode="after")
    def _check(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is given; expected logprobs true with it")
        return self


class CompletionRequest(Common):
    """A request to `/v1/completions`.

    Attributes:
      prompt: texts or token ids, one prompt or several.
      max_tokens: limit of each reply; with 0 only the prompt is scored.
      echo: whether the prompt is part of the answer, with its log-probabilities.
      logprobs: how many of the most likely tokens to return in each place; None returns
        no log-probabilities.
    """

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=10**6)] = 16
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """All prompts, one by one."""
        one = isinstance(self.prompt, str) or (
            self.prompt and isinstance(self.prompt[0], int)
        )
        return [self.prompt] if one else self.prompt


Request = TypeVar("Request", bound=Common)


def parse(content: bytes, kind: type[Request]) -> Request:
    """The request in the body of an HTTP request.

    Raises:
      ApiError: one sentence on what is wrong.
    """
    try:
        data = _without_nulls(parse_json(content))
    except (ValueError, RecursionError) as err:
        raise ApiError(400, f"The request's body is not JSON: {err}.") from err
    if not isinstance(data, dict):
        raise ApiError(
            400, f"The request's body is {show(data)}; expected a JSON object."
        )
    for name in _NEUTRAL.keys() & data.keys():
        value = data.pop(name)
        if isinstance(value, bool) or value not in _NEUTRAL[name]:
            raise ApiError(
                400,
                f"{name} is {show(value)}; this server has no such option, leave it "
                "out.",
                param=name,
            )
    data = {name: value for name, value in data.items() if name not in _IGNORED}
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as err:
        error, sentence = explain(err, data, kind)
        param = str(error["loc"][0]) if error["loc"] else None
        raise ApiError(400, sentence, param=param) from err


def _without_nulls(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _without_nulls(v) for k, v in data.items() if v is not None}
    return [_without_nulls(v) for v in data] if isinstance(data, list) else data
