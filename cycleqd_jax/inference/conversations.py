"""Conversations and the slots of the cache that hold them.

A conversation keeps its slot between turns, so that a new turn computes only what is
new. Where slots are short the least recently used waiting conversation gives its slot
up: what the cache has of it is set aside on the host, and put back for its next turn.
"""

import asyncio
import dataclasses
from collections.abc import Sequence

import jax

from cycleqd_jax.inference.requests import GREEDY, Limits, Sampling
from cycleqd_jax.models.base import Cache


@dataclasses.dataclass(eq=False)
class Request:
    """One turn under way.

    Attributes:
      prompt: all tokens of the conversation up to the reply.
      limits: when the reply ends; its `max_new_tokens` already fits the cache.
      sampling: how it is drawn.
      logprobs: whether log-probabilities are wanted.
      targets: for scoring, where the continuation in `prompt` begins; else None.
      reply: answered with a `Generation` or a `Scored`.
      done: tokens of the prompt that are in the cache.
      reused: how many of them were there before.
      produced: tokens of the reply.
      values: their log-probabilities, or those of scored tokens.
      hits: of scored tokens whether each is the most likely.
      waited: decode calls since it has been waiting for a prefill call.
      arrival: its number among all requests.
      served: when it last got a decode call, in the numbers of arrivals.
    """

    prompt: Sequence[int]
    limits: Limits
    reply: asyncio.Future
    sampling: Sampling = GREEDY
    logprobs: bool = False
    targets: int | None = None
    done: int = 0
    reused: int = 0
    produced: list[int] = dataclasses.field(default_factory=list)
    values: list[float] = dataclasses.field(default_factory=list)
    hits: list[bool] = dataclasses.field(default_factory=list)
    waited: int = 0
    arrival: int = 0
    served: int = 0

    @property
    def turn(self) -> tuple[int, int]:
        """Whose call comes first: who had none for longest, then who came first."""
        return self.served, self.arrival

    @property
    def needed(self) -> int:
        """How many tokens of the prompt have to be put into the cache."""
        # The last token of a scored text is only a target.
        return len(self.prompt) - (self.targets is not None)

    @property
    def in_prefill(self) -> bool:
        """Whether part of the prompt is not in the cache yet."""
        return self.done < self.needed


@dataclasses.dataclass(eq=False)
class Conversation:
    """A dialogue of one individual.

    Attributes:
      individual: index into the population.
      priority: of its requests while they wait for a slot; the lowest comes first.
      slot: where it lies in the cache, or None.
      held: the tokens that are there.
      aside: what the cache had of it, while another has its slot; else None.
      request: the turn under way, or None.
      used: when it was last computed, in device calls.
      closed: whether no more turns may come.
    """

    individual: int
    priority: int = 0
    slot: int | None = None
    held: list[int] = dataclasses.field(default_factory=list)
    aside: Cache | None = None
    request: Request | None = None
    used: int = 0
    closed: bool = False

    def reuse(self) -> None:
        """Lets the request begin behind what the cache has of its prompt already.

        At least one token is computed again, as a reply needs its logits. Where a
        template rewrites earlier turns, or a reply was cut, only the equal beginning is
        used.
        """
        request = self.request
        same = 0
        for old, new in zip(self.held, request.prompt, strict=False):
            if old != new:
                break
            same += 1
        same = min(same, request.needed - 1)
        if request.targets is not None:  # logits of these are wanted
            same = min(same, max(request.targets - 1, 0))
        request.done = request.reused = max(same, 0)
        del self.held[request.done :]

    def give_up(self, request: Request) -> None:
        """Ends the last turn, whose answer nobody gets.

        Only what it used of earlier turns is kept, so that the next turn has the same
        bits wherever this one was when it was given up.
        """
        if self.request is request and self.slot is None:  # it has not begun
            self.reuse()
        del self.held[request.reused :]
        self.request = None


class SlotTable:
    """Who lies where in the cache, and who is set aside."""

    def __init__(self, count: int, most_bytes: int):
        """Of so many slots; of rows that lie aside there should be no more bytes."""
        self._slots: list[Conversation | None] = [None] * count
        self._most_bytes = most_bytes
        self._aside: dict[Conversation, int] = {}  # bytes of each

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def active(self) -> list[Conversation]:
        """Conversations with a turn under way, in order of their slots."""
        return [c for c in self._slots if c is not None and c.request is not None]

    def place(self, conversation: Conversation) -> bool:
        """Gives a conversation a slot if one is free; says whether it has one now."""
        if conversation.slot is None and None in self._slots:
            conversation.slot = self._slots.index(None)
            self._slots[conversation.slot] = conversation
        return conversation.slot is not None

    def dispensable(self, comer: Conversation, *, stalled: bool) -> Conversation | None:
        """Who is to give its slot up, if anybody: the least recently used that waits.

        While more than half of the slots compute nobody is: moving rows costs more than
        the others' calls gain. Where enough lies aside only those that lie there
        themselves come in, others when some conversation has ended.

        Args:
          comer: who would get the slot.
          stalled: whether nothing has been computed for long: all conversations may
            wait for one that has not begun.
        """
        if 2 * len(self.active) > len(self._slots):
            return None
        full = sum(self._aside.values()) >= self._most_bytes
        if full and comer.aside is None and not stalled:
            return None
        waiting = [c for c in self._slots if c is not None and c.request is None]
        return min(waiting, key=lambda c: c.used, default=None)

    def set_aside(self, conversation: Conversation, row: Cache) -> None:
        """Takes a conversation out of the cache whose `row` is to be put back later."""
        self._slots[conversation.slot] = None
        conversation.slot, conversation.aside = None, row
        self._aside[conversation] = sum(array.nbytes for array in jax.tree.leaves(row))

    def take_back(self, conversation: Conversation) -> Cache | None:
        """The row that lies aside of a conversation that has a slot again, if any."""
        row, conversation.aside = conversation.aside, None
        self._aside.pop(conversation, None)
        return row

    def release(self, conversation: Conversation) -> None:
        """Takes a conversation out of the cache, for good."""
        if conversation.slot is not None:
            self._slots[conversation.slot] = None
        self._aside.pop(conversation, None)
        conversation.slot = conversation.aside = None
        conversation.held = []

    def clear(self) -> None:
        """Takes all of them out."""
        for conversation in [*self._slots, *self._aside]:
            if conversation is not None:
                self.release(conversation)
