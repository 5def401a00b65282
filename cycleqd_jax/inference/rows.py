"""Rows of tokens for gradients, packed into batches of few shapes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SHORTEST = 16  # tokens per row of the smallest program


class Row(NamedTuple):
    """One text for one genome.

    Attributes:
      genome: its index in the call.
      tokens: token ids, two or more.
      learnt: rising indices of the tokens that bear loss, from 1.
      weight: of the row in the genome's loss.
    """

    genome: int
    tokens: tuple[int, ...]
    learnt: tuple[int, ...]
    weight: float


class Batch(NamedTuple):
    """The rows of a device call: B rows of L tokens, T of them learnt.

    Attributes:
      genomes: int32 `[B]`; P in unused rows.
      tokens: int32 `[B, L]`, without the last token of the text, padded.
      lengths: int32 `[B]`, tokens without padding.
      places: int32 `[B, T]`, index of the token before each learnt one.
      targets: int32 `[B, T]`, the learnt tokens.
      is_learnt: bool `[B, T]`, False for padding.
      weights: float32 `[B]`.
    """

    genomes: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    is_learnt: np.ndarray
    weights: np.ndarray


def by_shape(rows: Sequence[Row]) -> dict[tuple[int, int], list[int]]:
    """(L, T) -> indices of the rows in programs of this shape; ascending."""
    shapes: dict[tuple[int, int], list[int]] = {}
    for i, row in enumerate(rows):
        length = _step(len(row.tokens) - 1)
        half = length // 2
        learnt = half if len(row.learnt) <= half else length
        shapes.setdefault((length, learnt), []).append(i)
    return dict(sorted(shapes.items()))


def _step(number: int) -> int:
    """The least of 16, 24, 32, 48, 64, 96, ... that is not below a number."""
    step = SHORTEST
    while step < number:
        step = step * 3 // 2 if step & (step - 1) == 0 else step * 4 // 3
    return step


def pack(
    rows: Sequence[Row], size: int, length: int, learnt: int, unused: int
) -> Batch:
    """At most `size` rows of one shape (L, T); `unused` is the genome of the others."""
    batch = Batch(
        genomes=np.full(size, unused, np.int32),
        tokens=np.zeros((size, length), np.int32),
        lengths=np.ones(size, np.int32),
        places=np.zeros((size, learnt), np.int32),
        targets=np.zeros((size, learnt), np.int32),
        is_learnt=np.zeros((size, learnt), bool),
        weights=np.zeros(size, np.float32),
    )
    for i, row in enumerate(rows):
        tokens, places = np.asarray(row.tokens), np.asarray(row.learnt)
        batch.genomes[i], batch.weights[i] = row.genome, row.weight
        batch.tokens[i, : tokens.size - 1] = tokens[:-1]
        batch.lengths[i] = tokens.size - 1
        batch.places[i, : places.size] = places - 1
        batch.targets[i, : places.size] = tokens[places]
        batch.is_learnt[i, : places.size] = True
    return batch
