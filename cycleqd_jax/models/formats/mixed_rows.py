"""A matrix whose rows come from two places, read as if it lay in one file.

An expert with another vocabulary than its base has rows for some of the base's tokens;
the others are the base's.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cycleqd_jax.models.formats.safetensors import FLOATING, StoredWeights

ALWAYS_NEW = float("inf")  # time of the last change where none is known


class Rows(NamedTuple):
    """Rows that are read when they are asked for.

    Attributes:
      read: gives rows `first` to `last - 1`, `[last - first, width]`.
      dtype: name of their dtype, as NumPy or JAX has it.
      identity: a text that every change of them changes; None where there is none.
    """

    read: Callable[[int, int], np.ndarray]
    dtype: str
    identity: str | None


class _Source(NamedTuple):
    """As `ByteFile`; the size is counted where the file itself is."""

    size: int
    identity: str
    changed: float


@dataclasses.dataclass(frozen=True)
class MixedRows:
    """A matrix in place of one in a file; `StoredWeights` reads it as its `TensorFile`.

    Attributes:
      file: that holds the own rows.
      name: of the own matrix in it.
      kept: bool `[rows]`, which rows are the own ones, by the same number.
      rest: the other rows.
    """

    file: Any
    name: str
    kept: np.ndarray
    rest: Rows

    @property
    def path(self) -> Any:
        """The path of the own file, for messages."""
        return self.file.path

    @property
    def origin(self) -> Any:
        """The file that the own rows are read from."""
        return self.file.origin

    @property
    def source(self) -> _Source:
        """Tells changes of the own rows, the others and the choice among them."""
        own, digest = self.file.source, hashlib.sha256(self.kept.tobytes()).hexdigest()
        changed = ALWAYS_NEW if self.rest.identity is None else own.changed
        facts = [own.identity, self.name, digest, self.rest.dtype, self.rest.identity]
        return _Source(0, repr(facts), changed)

    def outline(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and name of the dtype, which holds the values of both places."""
        shape, dtype = self.file.outline(self.name)
        if dtype in FLOATING and dtype != self.rest.dtype:
            dtype = jnp.promote_types(dtype, self.rest.dtype).name
        return (len(self.kept), *shape[1:]), dtype

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows `first` to `last - 1`."""
        kept = self.kept[first:last]
        dtype = jnp.dtype(self.outline(name)[1])
        end = min(last, self.file.outline(self.name)[0][0])
        if not kept.any():
            return self.rest.read(first, last).astype(dtype)
        own = self.file.rows(self.name, first, end)
        if kept.all():
            return own.astype(dtype, copy=False)
        mixed = self.rest.read(first, last).astype(dtype)
        mixed[kept] = own[kept[: len(own)]]
        return mixed

    def __getitem__(self, name: str) -> np.ndarray:
        return self.rows(name, 0, len(self.kept))


def rows_of(weights: Any, name: str) -> Rows:
    """The rows of a matrix among a model's weights, stored or in memory."""
    if not isinstance(weights, StoredWeights):
        array = weights[name]
        return Rows(lambda first, last: array[first:last], array.dtype.name, None)

    def read(first: int, last: int) -> np.ndarray:
        return weights.part(name, (slice(first, last),))

    return Rows(read, weights.outline(name)[1], weights.only([name]).identity())
