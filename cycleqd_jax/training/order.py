"""The order in which examples are learnt: a function of the seed and nothing else.

Sources take turns so that after any number of examples each has had its share of them
to within one. Within a source every epoch has each example once, shuffled anew.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Pick(NamedTuple):
    """Attributes: index of the source, and of the example within it."""

    source: int
    example: int


class Order:
    """An endless sequence of picks; any part of it may be asked for, in any order."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int):
        """Describes the sequence.

        Args:
          sizes: examples of each source, at least 1.
          weights: positive, of each source; a share is the weight over their sum.
          seed: of all shuffles.
        """
        self._sizes = tuple(sizes)
        self._shares = [weight / sum(weights) for weight in weights]
        single = len(self._sizes) == 1
        self._shuffles = [
            np.random.default_rng(seed if single else (seed, source))
            for source in range(len(self._sizes))
        ]
        self._credits = [0.0] * len(self._sizes)
        self._epochs: list[list[int]] = [[] for _ in self._sizes]  # reversed
        # What was asked for so far and all before it: shuffles cannot be skipped.
        self._known: list[Pick] = []

    def picks(self, start: int, count: int) -> list[Pick]:
        """The `count` picks from the `start`-th on, from 0."""
        while len(self._known) < start + count:
            self._known.append(self._next())
        return self._known[start : start + count]

    def _next(self) -> Pick:
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
