"""The rows that go into one device call."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.inference.conversations import Conversation, Request
from cycleqd_jax.inference.sampling import Draws
from cycleqd_jax.inference.settings import EngineSettings


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


def chunk_end(request: Request, settings: EngineSettings) -> int:
    """Where the next chunk of a prompt ends: at a multiple of the chunk's size.

    Chunks are cut at fixed offsets of the conversation, wherever its turn begins.
    """
    following = (request.done // settings.prefill_chunk + 1) * settings.prefill_chunk
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
