"""Conversations and the slots of the KV cache that hold them.

A conversation keeps its slot between turns, so that a new turn computes only its new
tokens. If slots are short, the least recently used conversation between two turns is
evicted: its part of the cache is kept on the host and copied back for the next turn.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from cycleqd_jax.inference.requests import GREEDY, Limits, Sampling, Top
from cycleqd_jax.models.base import Cache


@dataclasses.dataclass(eq=False)
class Request:
    """One turn of a conversation that is waiting or running.

    Attributes:
      prompt: token ids of the whole conversation before the reply, or the whole text to
        score.
      limits: when the reply ends; `max_new_tokens` already fits the cache.
      answer: receives a `Generation` or a `Scored`.
      sampling: how tokens are sampled.
      wants_logprobs: whether to return log-probabilities of the reply.
      num_top: how many of the most likely tokens to return in each place.
      heard: is called with the request after each device call that added tokens to its
        reply without ending it.
      score_from: when scoring, index in `prompt` where the continuation begins; else
        None.
      prefilled: tokens of the prompt that are in the cache.
      reused: tokens of the prompt that were in the cache before this turn.
      generated: token ids of the reply.
      logprobs: of the generated or scored tokens.
      greedy: whether each scored token is the most likely one.
      top: the most likely tokens in the place of each generated or scored one.
      skipped_calls: decode calls made while this prompt waited for its prefill call.
      arrival: sequence number among all requests.
      last_served: `arrival`-like number of its last decode call; 0 before the first.
    """

    prompt: Sequence[int]
    limits: Limits
    answer: asyncio.Future
    sampling: Sampling = GREEDY
    wants_logprobs: bool = False
    num_top: int = 0
    heard: Callable[["Request"], None] | None = None
    score_from: int | None = None
    prefilled: int = 0
    reused: int = 0
    generated: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    greedy: list[bool] = dataclasses.field(default_factory=list)
    top: list[Top] = dataclasses.field(default_factory=list)
    skipped_calls: int = 0
    arrival: int = 0
    last_served: int = 0

    @property
    def prefill_length(self) -> int:
        """The number of the prompt's tokens that must be in the cache."""
        # When scoring, the last token is only a target.
        return len(self.prompt) - (self.score_from is not None)

    @property
    def in_prefill(self) -> bool:
        """True if a part of the prompt is not in the cache yet."""
        return self.prefilled < self.prefill_length

    def chunk_end(self, size: int) -> int:
        """The end of the next prefill chunk of at most `size` tokens, in the prompt.

        Chunks are cut at multiples of `size` from the start of the conversation, not of
        the turn, so that they are the same however a conversation came about.
        """
        return min((self.prefilled // size + 1) * size, self.prefill_length)


@dataclasses.dataclass(eq=False)
class Conversation:
    """A dialogue of one individual.

    Attributes:
      individual: index into the population.
      priority: the lowest is served first where slots are short.
      slot: index of its slot in the cache, or None.
      cached: token ids that the cache holds of it.
      evicted: its part of the cache, kept on the host while it has no slot; else None.
      request: the turn that is waiting or running, or None.
      last_used: number of the last device call that computed it.
      closed: whether no more turns may come.
    """

    individual: int
    priority: int = 0
    slot: int | None = None
    cached: list[int] = dataclasses.field(default_factory=list)
    evicted: Cache | None = None
    request: Request | None = None
    last_used: int = 0
    closed: bool = False

    def reuse_prefix(self) -> None:
        """Starts the request after the tokens that its prompt shares with the cache.

        At least one token is computed again, since a reply needs its logits. The prompt
        may differ earlier: some templates rewrite old turns, and replies may be cut.
        """
        request = self.request
        shared = 0
        for old, new in zip(self.cached, request.prompt, strict=False):
            if old != new:
                break
            shared += 1
        shared = min(shared, request.prefill_length - 1)
        if request.score_from is not None:  # the logits before each target are needed
            shared = min(shared, max(request.score_from - 1, 0))
        request.prefilled = request.reused = max(shared, 0)
        del self.cached[request.prefilled :]

    def abandon(self, request: Request) -> None:
        """Ends a turn that nobody waits for any more.

        Only the tokens it reused stay valid, so that the bits of the next turn do not
        depend on how far this one got.
        """
        if self.request is request and self.slot is None:  # it has not started
            self.reuse_prefix()
        del self.cached[request.reused :]
        self.request = None


class BatchRow(NamedTuple):
    """One row of a device call: a conversation as it was when the call began.

    Attributes:
      conversation: whose row it is.
      request: the turn that is running.
      slot: of the conversation.
    """

    conversation: Conversation
    request: Request
    slot: int

    @property
    def is_current(self) -> bool:
        """False if the caller abandoned the request during the call."""
        # A cancelled caller cancels the future first and abandons the request later.
        return (
            self.conversation.request is self.request and not self.request.answer.done()
        )


class SlotTable:
    """The assignment of conversations to slots, and the evicted ones.

    Args:
      count: number of slots.
      max_host_bytes: limit for evicted parts of the cache kept on the host.
    """

    def __init__(self, count: int, max_host_bytes: int):
        self._slots: list[Conversation | None] = [None] * count
        self._max_host_bytes = max_host_bytes
        self._evicted: dict[Conversation, int] = {}  # bytes of each

    @property
    def taken(self) -> int:
        """The number of slots that have a conversation."""
        return sum(one is not None for one in self._slots)

    @property
    def active(self) -> list[Conversation]:
        """Conversations with a running turn, in order of their slots."""
        return [c for c in self._slots if c is not None and c.request is not None]

    def assign(self, conversation: Conversation) -> bool:
        """Gives a conversation a free slot; returns whether it has a slot now."""
        if conversation.slot is None and None in self._slots:
            conversation.slot = self._slots.index(None)
            self._slots[conversation.slot] = conversation
        return conversation.slot is not None

    def choose_eviction(
        self, newcomer: Conversation, *, stalled: bool
    ) -> Conversation | None:
        """The least recently used conversation between two turns, or None.

        Nothing is evicted while more than half of the slots are active: copying costs
        more than a fuller call gains. When the host's limit is reached, only evicted
        conversations may come back; new ones wait until some conversation ends.

        Args:
          newcomer: gets the slot.
          stalled: nothing was computed for a while, so all conversations may be waiting
            for one that has not started: the host's limit is ignored.
        """
        if 2 * len(self.active) > len(self._slots):
            return None
        full = sum(self._evicted.values()) >= self._max_host_bytes
        if full and newcomer.evicted is None and not stalled:
            return None
        idle = [c for c in self._slots if c is not None and c.request is None]
        return min(idle, key=lambda c: c.last_used, default=None)

    def evict(self, conversation: Conversation, cache: Cache) -> None:
        """Frees the slot of a conversation, whose part of the cache is now `cache`."""
        self._slots[conversation.slot] = None
        conversation.slot, conversation.evicted = None, cache
        arrays = jax.tree.leaves(cache)
        self._evicted[conversation] = sum(array.nbytes for array in arrays)

    def restore(self, conversation: Conversation) -> Cache | None:
        """Removes and returns the evicted part of the cache; None if not evicted."""
        cache, conversation.evicted = conversation.evicted, None
        self._evicted.pop(conversation, None)
        return cache

    def release(self, conversation: Conversation) -> None:
        """Frees everything a conversation holds."""
        if conversation.slot is not None:
            self._slots[conversation.slot] = None
        self._evicted.pop(conversation, None)
        conversation.slot = conversation.evicted = None
        conversation.cached = []

    def clear(self) -> None:
        """Releases all conversations."""
        for conversation in [*self._slots, *self._evicted]:
            if conversation is not None:
                self.release(conversation)
