"""Batches of one shape, as a function of the seed and the number of the update.

Sources alternate so that after any number of examples each has had its share to within
one. Within a source every epoch has each example once, in a new order.

With packing, the dialogues of an update share rows where they fit. This saves padding;
the update learns from the same dialogues.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.dialogues import Example


class Batch(NamedTuple):
    """B rows of L tokens, with up to A targets per row.

    Attributes:
      tokens: int32 `[B, L]`, padded on the right.
      positions: int32 `[B, A]`, indices whose NEXT token is a target.
      targets: int32 `[B, A]`, those next tokens.
      mask: float32 `[B, A]`, 1 for targets, 0 for padding.
      segments: int32 `[B, L]`, number of the dialogue in its row that each token
        belongs to, 0 for padding; None without packing.
      segment_positions: int32 `[B, L]`, index of each token in its dialogue; None
        without packing.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    segments: np.ndarray | None = None
    segment_positions: np.ndarray | None = None


class Batches:
    """The batches of all updates.

    Attributes:
      rows: B.
      length: L, the length of the longest example.
      targets: A.
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
        """Plans all batches, to find the shape that holds each of them.

        Args:
          sources: examples of each source.
          weights: of the sources.
          batch_size: examples per update.
          steps: number of updates.
          seed: of the order.
          packing: whether examples share rows.
          multiple_of: the number of rows is rounded up to a multiple of this.

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
        self.targets = max(len(e.learnt) for e in examples)
        if packing:
            self.rows = self.targets = 0
            for step in range(1, steps + 1):
                rows = self._rows_of(step)
                targets = max(sum(len(e.learnt) for e in row) for row in rows)
                self.rows = max(self.rows, len(rows))
                self.targets = max(self.targets, targets)
        self.rows = -(-self.rows // multiple_of) * multiple_of

    def at(self, step: int) -> Batch:
        """The batch of an update; the first is 1."""
        batch = fill(self._rows_of(step), self.rows, self.length, self.targets)
        if not self._packing:
            return batch._replace(segments=None, segment_positions=None)
        return batch

    def tokens(self, steps: int) -> int:
        """Tokens of the dialogues of the first updates, without padding."""
        picks = self._order.picks(0, steps * self._batch_size)
        sizes = [[len(e.tokens) for e in source] for source in self._sources]
        return sum(sizes[pick.source][pick.example] for pick in picks)

    def _rows_of(self, step: int) -> list[list[Example]]:
        """The examples of each row of an update; rows beyond them are empty."""
        picks = self._order.picks((step - 1) * self._batch_size, self._batch_size)
        chosen = [self._sources[pick.source][pick.example] for pick in picks]
        if not self._packing:
            return [[example] for example in chosen]
        return packed(chosen, self.length)


def fill(
    content: Sequence[Sequence[Example]], rows: int, length: int, targets: int
) -> Batch:
    """The batch whose first rows hold these examples; the other rows are padding.

    Args:
      content: the examples of each row, at most `rows`; what they need fits.
      rows: B.
      length: L.
      targets: A.
    """
    tokens = np.zeros((rows, length), np.int32)
    positions, wanted = np.zeros((2, rows, targets), np.int32)
    mask = np.zeros((rows, targets), np.float32)
    segments, indices = np.zeros((2, rows, length), np.int32)
    for row, examples in enumerate(content):
        start = count = 0
        for segment, example in enumerate(examples, start=1):
            size, learnt = len(example.tokens), np.asarray(example.learnt)
            tokens[row, start : start + size] = example.tokens
            segments[row, start : start + size] = segment
            indices[row, start : start + size] = np.arange(size)
            part = slice(count, count + len(learnt))
            positions[row, part] = start + learnt - 1
            wanted[row, part] = np.asarray(example.tokens)[learnt]
            mask[row, part] = 1.0
            start, count = start + size, count + len(learnt)
    return Batch(tokens, positions, wanted, mask, segments, indices)


def packed(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Packs examples into rows of at most `length` tokens: first fit, longest first.

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


class Pick(NamedTuple):
    """Attributes: index of the source, and of the example in it."""

    source: int
    example: int


class Order:
    """An endless sequence of examples, of which any part can be asked for."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int):
        """Describes the sequence.

        Args:
          sizes: examples of each source, at least 1.
          weights: of each source, positive; its share is its weight over their sum.
          seed: of all shuffles.
        """
        self._sizes = tuple(sizes)
        self._shares = [weight / sum(weights) for weight in weights]
        self._seed = seed
        self._restart()

    def picks(self, start: int, count: int) -> list[Pick]:
        """`count` picks from index `start`.

        Cheap for consecutive parts; otherwise all picks in between are made, since
        shuffles cannot be skipped.
        """
        if start < self._index:
            self._restart()
        while self._index < start:
            self._next()
        return [self._next() for _ in range(count)]

    def _restart(self) -> None:
        sources = range(len(self._sizes))
        single = len(self._sizes) == 1
        self._index = 0
        self._shuffles = [
            np.random.default_rng(self._seed if single else (self._seed, source))
            for source in sources
        ]
        self._credits = [0.0 for _ in sources]
        self._epochs: list[list[int]] = [[] for _ in sources]  # last example first

    def _next(self) -> Pick:
        self._index += 1
        credits = self._credits
        for source, share in enumerate(self._shares):
            credits[source] += share
        source = credits.index(max(credits))
        credits[source] -= 1.0
        epoch = self._epochs[source]
        if not epoch:
            order = self._shuffles[source].permutation(self._sizes[source])
            epoch.extend(order[::-1].tolist())
        return Pick(source, epoch.pop())
