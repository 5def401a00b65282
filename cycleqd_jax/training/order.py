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
        self._seed = seed
        self._restart()

    def picks(self, start: int, count: int) -> list[Pick]:
        """The `count` picks from the `start`-th on, from 0.

        Cheap where parts are asked for one after another; a jump goes through all
        that lies between, as shuffles cannot be skipped.
        """
        if start < self._place:
            self._restart()
        while self._place < start:
            self._next()
        return [self._next() for _ in range(count)]

    def _restart(self) -> None:
        sources = range(len(self._sizes))
        single = len(self._sizes) == 1
        self._place = 0
        self._shuffles = [
            np.random.default_rng(self._seed if single else (self._seed, source))
            for source in sources
        ]
        self._credits = [0.0 for _ in sources]
        self._epochs: list[list[int]] = [[] for _ in sources]  # reversed

    def _next(self) -> Pick:
        self._place += 1
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
