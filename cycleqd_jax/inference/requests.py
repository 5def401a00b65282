"""What is asked of the engine, and what it answers."""

import dataclasses
import operator
from typing import Any

from cycleqd_jax.chat import Finish

# What programs get is float32 and int32.
_MOST_TEMPERATURE = 3e38
_MOST_TOP_K = 2**31 - 1


class RequestError(ValueError):
    """A request cannot be answered; others are not touched by it."""


def whole(name: str, value: Any) -> int:
    """A value as an int.

    Raises:
      RequestError: it is not a whole number, or is a bool.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise RequestError(f"{name}: expected a whole number, got {value!r}.")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the default is greedy.

    Attributes:
      temperature: 0 to 3e38; 0 takes the most likely token.
      top_k: only the k most likely tokens; 0 for all.
      top_p: only the smallest set of tokens whose probabilities add up to p; after
        top_k.
      seed: of the draws of this request, 0 to 2**32 - 1. The same request with the same
        seed gets the same tokens, whatever runs beside it.

    Raises:
      ValueError: a value is not allowed.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole("top_k", self.top_k)
        whole("seed", self.seed)
        checks = {
            "temperature": (0 <= self.temperature <= _MOST_TEMPERATURE, "0 to 3e38"),
            "top_k": (0 <= self.top_k <= _MOST_TOP_K, "0 to 2**31 - 1"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "seed": (0 <= self.seed < 2**32, "0 to 2**32 - 1"),
        }
        for name, (allowed, expected) in checks.items():
            if not allowed:
                raise ValueError(
                    f"{name}: expected {expected}, got {getattr(self, name)!r}."
                )


GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Limits:
    """When a reply ends.

    Attributes:
      max_new_tokens: at the latest then.
      stop_strings: texts that end it, wherever token borders lie; the text ends before
        the first of them.

    Raises:
      ValueError: a value is not allowed.
    """

    max_new_tokens: int
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if whole("max_new_tokens", self.max_new_tokens) < 1:
            raise ValueError(
                f"max_new_tokens: expected at least 1, got {self.max_new_tokens}."
            )
        stops = self.stop_strings
        # A text would be taken for its characters, each of which would end the reply.
        if isinstance(stops, str) or not all(isinstance(s, str) and s for s in stops):
            raise ValueError(
                "stop_strings: expected a tuple of texts that are not empty, got "
                f"{stops!r}."
            )


@dataclasses.dataclass(frozen=True)
class Generation:
    """The answer to one request.

    Attributes:
      text: decoded, without what ended it.
      tokens: ids, the ending ones included.
      finish: why it ended.
      prompt_tokens: tokens of the prompt.
      reused_tokens: how many of them were in the cache already.
      logprobs: of each token given all before it, natural logarithm, at temperature
        1 and without top-k and top-p; empty unless they were asked for.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Finish
    prompt_tokens: int
    reused_tokens: int = 0
    logprobs: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scored:
    """How likely a continuation is.

    Attributes:
      logprobs: of each token given all before it, natural logarithm.
      greedy: for each token whether it is the most likely one.
    """

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]

    @property
    def logprob(self) -> float:
        """Of the whole continuation."""
        return float(sum(self.logprobs))

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would have given the whole continuation."""
        return all(self.greedy)
