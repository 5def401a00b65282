"""Batches of one shape: what each update learns, as arrays.

Packed, the dialogues of an update share rows where they fit, which saves padding and
changes nothing else: an update learns from the same dialogues in both forms.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.dialogues import Example
from cycleqd_jax.training.order import Order


class Batch(NamedTuple):
    """B rows of L tokens, of which up to A per row are learnt.

    Attributes:
      tokens: int32 `[B, L]`, padded on the right.
      positions: int32 `[B, A]`, indices whose NEXT token is learnt.
      targets: int32 `[B, A]`, those next tokens.
      mask: float32 `[B, A]`, 1 where a target is real.
      segments: int32 `[B, L]`, the dialogue of its row that a token belongs to, or
        None where each row is one.
      places: int32 `[B, L]`, each token's place in its dialogue, or None likewise.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    segments: np.ndarray | None = None
    places: np.ndarray | None = None


class Batches:
    """The batch of every update: a function of sources, seed and the update's number.

    Attributes:
      rows: B.
      length: L, that of the longest example.
      answers: A.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Example]],
        weights: Sequence[float],
        *,
        batch_size: int,
        steps: int,
        seed: int,
        packing: bool = False,
        multiple_of: int = 1,
    ):
        """Plans all batches, so that one shape holds each of them.

        Args:
          sources: examples by source.
          weights: of the sources.
          batch_size: examples per update.
          steps: updates there will be.
          seed: of the order.
          packing: whether examples share rows.
          multiple_of: what the number of rows is rounded up to, with empty ones.

        Raises:
          BadInputError: a source has no examples.
        """
        if not sources or not all(sources):
            raise BadInputError(
                "A source has no examples to train on; set problems.train above 0, or "
                "optimiser.max_length higher."
            )
        self._sources = sources
        self._batch_size = batch_size
        self._packing = packing
        self._order = Order([len(s) for s in sources], weights, seed)
        examples = [example for source in sources for example in source]
        self.length = max(len(e.tokens) for e in examples)
        self.rows = batch_size
        self.answers = max(len(e.learnt) for e in examples)
        if packing:
            self.rows = self.answers = 0
            for step in range(1, steps + 1):
                plan = self._planned(step)
                answers = max(sum(len(e.learnt) for e in row) for row in plan)
                self.rows = max(self.rows, len(plan))
                self.answers = max(self.answers, answers)
        self.rows = -(-self.rows // multiple_of) * multiple_of

    def at(self, step: int) -> Batch:
        """The batch of an update, from 1."""
        tokens = np.zeros((self.rows, self.length), np.int32)
        positions, targets = np.zeros((2, self.rows, self.answers), np.int32)
        mask = np.zeros((self.rows, self.answers), np.float32)
        # Segment 0 is padding.
        segments, places = np.zeros((2, self.rows, self.length), np.int32)
        for row, examples in enumerate(self._planned(step)):
            start = count = 0
            for segment, example in enumerate(examples, start=1):
                size, learnt = len(example.tokens), np.asarray(example.learnt)
                tokens[row, start : start + size] = example.tokens
                segments[row, start : start + size] = segment
                places[row, start : start + size] = np.arange(size)
                answer = slice(count, count + len(learnt))
                positions[row, answer] = start + learnt - 1
                targets[row, answer] = np.asarray(example.tokens)[learnt]
                mask[row, answer] = 1.0
                start, count = start + size, count + len(learnt)
        if not self._packing:
            return Batch(tokens, positions, targets, mask)
        return Batch(tokens, positions, targets, mask, segments, places)

    def _planned(self, step: int) -> list[list[Example]]:
        """The examples of each row that is not empty."""
        picks = self._order.picks((step - 1) * self._batch_size, self._batch_size)
        chosen = [self._sources[pick.source][pick.example] for pick in picks]
        if not self._packing:
            return [[example] for example in chosen]
        return packed(chosen, self.length)


def packed(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Rows of examples of at most `length` tokens, by first fit, the longest first.

    No example may be longer than `length`.
    """
    rows: list[list[Example]] = []
    free: list[int] = []
    for example in sorted(examples, key=lambda e: -len(e.tokens)):
        size = len(example.tokens)
        row = next((i for i, room in enumerate(free) if room >= size), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(length)
        rows[row].append(example)
        free[row] -= size
    return rows
