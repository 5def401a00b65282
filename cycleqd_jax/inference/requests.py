"""Requests to the engine and its answers; where a reply ends."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cycleqd_jax.chat import Finish
from cycleqd_jax.errors import RunError

# The compiled programs take float32 and int32.
_MAX_TEMPERATURE = 3e38
_MAX_TOP_K = 2**31 - 1

# Ids of the most likely tokens in one place and their natural log-probabilities, the
# most likely first.
Top = tuple[tuple[int, float], ...]


class RequestError(ValueError):
    """A request cannot be answered; other requests are not affected."""


class NotFiniteError(RunError):
    """The logits hold NaN or infinity, so the model gives no reply."""

    def __init__(self):
        super().__init__(
            "the logits hold NaN or infinity, because its weights are too large for "
            "the model's dtype; check the scale of the experts"
        )


def as_int(name: str, value: object) -> int:
    """Converts a Python or NumPy integer to `int`.

    Raises:
      RequestError: the value is a bool or not an integer.
    """
    if isinstance(value, bool):
        raise RequestError(f"{name}: expected a whole number, got {value!r}.")
    try:
        return operator.index(value)
    except TypeError as err:
        raise RequestError(f"{name}: expected a whole number, got {value!r}.") from err


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling parameters; greedy by default.

    Attributes:
      temperature: 0 to 3e38; 0 is greedy.
      top_k: keeps the k most likely tokens; 0 keeps all.
      top_p: then keeps the smallest set of tokens whose probabilities add up to p.
      seed: 0 to 2**32 - 1. Tokens depend on the request and its seed alone, never on
        other requests.

    Raises:
      ValueError: a value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        as_int("top_k", self.top_k)
        as_int("seed", self.seed)
        checks = {
            "temperature": (0 <= self.temperature <= _MAX_TEMPERATURE, "0 to 3e38"),
            "top_k": (0 <= self.top_k <= _MAX_TOP_K, "0 to 2**31 - 1"),
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
    """The limits that end a reply.

    Attributes:
      max_new_tokens: the most tokens that are generated.
      stop_strings: strings that end the reply, even where one spans several tokens; the
        reply's text is cut before the string.

    Raises:
      ValueError: a value is not allowed.
    """

    max_new_tokens: int
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if as_int("max_new_tokens", self.max_new_tokens) < 1:
            raise ValueError(
                f"max_new_tokens: expected at least 1, got {self.max_new_tokens}."
            )
        stops = self.stop_strings
        # A bare string would be read as one-character strings, and each would end it.
        if isinstance(stops, str) or not all(isinstance(s, str) and s for s in stops):
            raise ValueError(
                f"stop_strings: expected a tuple of non-empty strings, got {stops!r}."
            )


@dataclasses.dataclass(frozen=True)
class Generation:
    """The reply to a prompt.

    Attributes:
      text: decoded, without the stop token or stop string.
      tokens: ids, including those of the stop token or stop string.
      finish: why it ended.
      prompt_tokens: tokens of the prompt.
      reused_tokens: tokens of the prompt that were in the cache already.
      logprobs: natural log-probability of each token given all before it, at
        temperature 1 without top-k and top-p; empty unless requested.
      top: the most likely tokens in the place of each, see `Top`; empty unless
        requested.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Finish
    prompt_tokens: int
    reused_tokens: int = 0
    logprobs: tuple[float, ...] = ()
    top: tuple[Top, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scored:
    """The log-probabilities of a given continuation.

    Attributes:
      logprobs: natural log-probability of each token given all before it.
      greedy: whether each token is the most likely one.
      reused_tokens: tokens that the cache had already.
      top: the most likely tokens in the place of each, see `Top`; empty unless
        requested.
    """

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]
    reused_tokens: int = 0
    top: tuple[Top, ...] = ()

    @property
    def logprob(self) -> float:
        """Log-probability of the whole continuation."""
        return float(sum(self.logprobs))

    @property
    def is_greedy(self) -> bool:
        """True if greedy decoding would produce the whole continuation."""
        return all(self.greedy)


class Detokenizer(Protocol):
    """The members of a tokenizer that `find_end` uses."""

    stop_ids: tuple[int, ...]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        ...


class Ending(NamedTuple):
    """The way a reply ended.

    Attributes:
      num_tokens: length of the reply in tokens, with its stop token or stop string.
      text: decoded, without the stop token or stop string.
      finish: why it ended.
    """

    num_tokens: int
    text: str
    finish: Finish


def find_end(
    generated: Sequence[int], limits: Limits, tokenizer: Detokenizer
) -> Ending | None:
    """Finds the end of a reply; None if it is not finished.

    A reply with a stop string ends at the first token that completes it.

    Args:
      generated: tokens so far; a stop token can only be the last.
      limits: of this request.
      tokenizer: of the model.
    """
    stopped = bool(generated) and generated[-1] in tokenizer.stop_ids
    ids = generated[:-1] if stopped else generated
    if limits.stop_strings and _has_stop(ids, limits, tokenizer):
        count = len(ids)
        # Step back from the end: one of the last call's tokens completed the string.
        while count > 1 and _has_stop(ids[: count - 1], limits, tokenizer):
            count -= 1
        text = tokenizer.decode(ids[:count])
        starts = [text.find(stop) for stop in limits.stop_strings]
        first = min(start for start in starts if start >= 0)
        return Ending(count, text[:first], Finish.STOP)
    if stopped:
        return Ending(len(generated), tokenizer.decode(ids), Finish.STOP)
    if len(generated) >= limits.max_new_tokens:
        return Ending(len(generated), tokenizer.decode(ids), Finish.LENGTH)
    return None


def _has_stop(ids: Sequence[int], limits: Limits, tokenizer: Detokenizer) -> bool:
    text = tokenizer.decode(ids)
    return any(stop in text for stop in limits.stop_strings)
