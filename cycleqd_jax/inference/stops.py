"""Where a reply ends: stop tokens, stop strings, limits."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cycleqd_jax.chat import Finish
from cycleqd_jax.inference.requests import Limits


class Decoder(Protocol):
    """What is needed of a tokeniser."""

    stop_ids: tuple[int, ...]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        ...


class Ending(NamedTuple):
    """How a reply ended.

    Attributes:
      tokens: how many of the produced tokens belong to it, the ending ones included.
      text: decoded, without what ended it.
      finish: why.
    """

    tokens: int
    text: str
    finish: Finish


def find_end(
    produced: Sequence[int], limits: Limits, tokenizer: Decoder
) -> Ending | None:
    """Whether a reply has ended, and where.

    Args:
      produced: its tokens so far; a stop token is the last one.
      limits: its own.
      tokenizer: of the model.

    Returns:
      None if it goes on. A stop string counts as soon as its last character is there;
      the tokens then are the fewest whose text has it, of those since it was not there.
    """
    stopped = bool(produced) and produced[-1] in tokenizer.stop_ids
    ids = produced[:-1] if stopped else produced
    if limits.stop_strings:
        text = tokenizer.decode(ids)
        places = [text.find(stop) for stop in limits.stop_strings]
        if any(place >= 0 for place in places):
            count = _fewest(ids, limits.stop_strings, tokenizer)
            text = tokenizer.decode(ids[:count])
            places = [text.find(stop) for stop in limits.stop_strings]
            first = min(place for place in places if place >= 0)
            return Ending(count, text[:first], Finish.STOP)
    if stopped:
        return Ending(len(produced), tokenizer.decode(ids), Finish.STOP)
    if len(produced) >= limits.max_new_tokens:
        return Ending(len(produced), tokenizer.decode(ids), Finish.LENGTH)
    return None


def _fewest(ids: Sequence[int], stop_strings: Sequence[str], tokenizer: Decoder) -> int:
    """The least number of tokens whose text holds a stop string.

    It is looked for from the end, as replies are looked at after every call.
    """
    count = len(ids)
    while count > 1:
        text = tokenizer.decode(ids[: count - 1])
        if not any(stop in text for stop in stop_strings):
            break
        count -= 1
    return count
