"""Sizes of device calls, and the rows that go into one."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.inference.conversations import Conversation, Request
from cycleqd_jax.inference.sampling import Draws


@dataclasses.dataclass(frozen=True)
class EngineShape:
    """The static sizes of the engine's programs.

    Attributes:
      slots: conversations in the cache at once (S).
      length: tokens of the longest conversation, a multiple of `prefill_chunk`.
      prefill_rows: conversations of one prefill call (P), at most `slots`.
      prefill_chunk: tokens of each in one prefill call (C).
      decode_steps: tokens of one decode call (N).
      deterministic: whether every call has the same shape.
    """

    slots: int
    length: int
    prefill_rows: int
    prefill_chunk: int
    decode_steps: int
    deterministic: bool = True

    @property
    def spans(self) -> tuple[int, ...]:
        """Lengths of the cache that calls look at, ascending; the last is all."""
        return (self.length,) if self.deterministic else self.parts

    @property
    def parts(self) -> tuple[int, ...]:
        """Lengths that are set aside: moving them changes no bit in any engine."""
        parts = {max(self.length // 8, 64), max(self.length // 2, 64), self.length}
        return tuple(sorted(part for part in parts if part <= self.length))

    def rows(self, most: int) -> tuple[int, ...]:
        """Numbers of rows that calls have, ascending; the last is `most`."""
        if self.deterministic:
            return (most,)
        return tuple(sorted({max(most // 8, 1), max(most // 2, 1), most}))


class Row(NamedTuple):
    """A conversation as it was when a call began.

    Attributes:
      conversation: whose it is.
      request: the turn under way.
      slot: where it lies in the cache.
    """

    conversation: Conversation
    request: Request
    slot: int

    @property
    def is_current(self) -> bool:
        """False if its caller gave it up while the call ran."""
        # A cancelled caller has given up before it can say so.
        return (
            self.conversation.request is self.request and not self.request.reply.done()
        )


def chunk_end(request: Request, shape: EngineShape) -> int:
    """Where the next chunk of a prompt ends: at a multiple of the chunk's size.

    Chunks are cut at fixed offsets of the conversation, wherever its turn begins.
    """
    following = (request.done // shape.prefill_chunk + 1) * shape.prefill_chunk
    return min(following, request.needed)


def draws_of(rows: Sequence[Row], places: Sequence[int], count: int) -> Draws:
    """How each of `count` rows draws, those of `places` as their requests ask."""
    temperature, top_p = np.zeros(count, np.float32), np.ones(count, np.float32)
    top_k, counts = np.zeros((2, count), np.int32)
    seeds = np.zeros(count, np.uint32)
    for place, row in zip(places, rows, strict=True):
        sampling = row.request.sampling
        temperature[place], top_p[place] = sampling.temperature, sampling.top_p
        top_k[place], seeds[place] = sampling.top_k, sampling.seed
        counts[place] = len(row.request.produced)
    return Draws(temperature, top_k, top_p, seeds, counts)
