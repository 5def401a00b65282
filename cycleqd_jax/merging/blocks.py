"""Decomposes task vectors, one parameter or several matrices of one shape at a time.

A `Block` is what the basis holds of one parameter. Blocks do not depend on each other,
so they can be computed in any order and stored one by one.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.merging.device_delta import DeviceDelta
from cycleqd_jax.merging.device_svd import batch_svd
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.merging.svd import TruncatedSVD, truncated_svd
from cycleqd_jax.merging.task_vectors import Delta, ParameterDeltas

_BATCH_BYTES = 1 << 28  # of the large task vectors that are decomposed in one call
Batch = Sequence[ParameterDeltas]


class Block(NamedTuple):
    """All experts' shares of one parameter that at least one of them changes.

    Attributes:
      name: of the parameter.
      u: `[out, R]`, in the basis's dtype; None where the parameter is no matrix.
      v: `[in, R]`, likewise.
      values: `[K, n]` float64, singular values of each expert; see `TruncatedSVD`.
        The first R / K of them are those of the directions.
      energy: `[K]` float64, squared Frobenius norm of each expert's task vector.
      kept: `[K]` float64, the share of it that the directions keep; 1 of nothing.
      residual: `[K, out, in]`, in the basis's dtype; None where nothing is left.
      delta: `[K, ...]` float32, the differences of a parameter that is no matrix.
    """

    name: str
    u: Any = None
    v: Any = None
    values: np.ndarray | None = None
    energy: np.ndarray | None = None
    kept: np.ndarray | None = None
    residual: Any = None
    delta: Any = None


def is_alone(settings: BasisSettings) -> bool:
    """True if rows come layer by layer, so that each is a batch of its own."""
    return settings.conditioning == "regmean"


def matrices_per_call(shape: Sequence[int]) -> int:
    """The number of large task vectors that are decomposed in one call."""
    return max(1, _BATCH_BYTES // (4 * math.prod(shape)))


def batches(rows: Iterable[ParameterDeltas], *, alone: bool) -> Iterator[Batch]:
    """Groups rows that are decomposed in one call; nothing is read for it.

    Args:
      rows: parameters, those of one shape together.
      alone: whether each row is a batch of its own.

    Yields:
      Batches in the order of rows. They depend on shapes only.
    """
    batch: list[ParameterDeltas] = []
    for row in rows:
        full = len(batch) >= matrices_per_call(row.shape)
        if batch and (alone or full or batch[0].shape != row.shape):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def decompose(
    task_vectors: Iterable[Batch], settings: BasisSettings, dtype: str
) -> Iterator[tuple[Batch, list[Block]]]:
    """Decomposes batch after batch.

    While the accelerator works on one batch, the next one is read.

    Args:
      task_vectors: from `batches`.
      settings: rank, and what is done with the components beyond it.
      dtype: of directions and residuals.

    Yields:
      Each batch and its blocks; parameters that no expert changes have none.
    """
    waiting = None
    for batch in task_vectors:
        begun = batch, _begin(batch, settings, dtype)
        if waiting is not None:
            yield waiting[0], _finish(waiting[1], dtype)
        waiting = begun
    if waiting is not None:
        yield waiting[0], _finish(waiting[1], dtype)


# Rows with what was made of each expert's task vector, None where there was none.
_Parts = list[tuple[ParameterDeltas, list[Any]]]


def _begin(batch: Batch, settings: BasisSettings, dtype: str) -> _Parts:
    """The decompositions of a batch; those on the accelerator need not be ready."""
    keep_rest = settings.residual == "keep"
    large: list[tuple[list[Any], int, jax.Array]] = []  # where a result belongs

    def cut(delta: Delta | None) -> Any:
        if delta is None or isinstance(delta, DeviceDelta):
            return delta
        return truncated_svd(delta, settings.rank, keep_rest=keep_rest)

    def decompose_large() -> None:
        if large:
            stacked = jnp.stack([array for _, _, array in large])
            found = batch_svd(stacked, settings.rank, dtype, keep_rest)
            for i, (own, k, _) in enumerate(large):
                own[k] = TruncatedSVD(*(x if x is None else x[i] for x in found))
            large.clear()

    parts = []
    for row in batch:
        own: list[Any] = []
        # `map` drops each task vector before the next one is computed.
        for part in map(cut if row.is_matrix else _to_float32, row.deltas):
            own.append(part)
            if isinstance(part, DeviceDelta):
                own[-1] = None
                large.append((own, len(own) - 1, part.array))
                if len(large) >= matrices_per_call(row.shape):
                    decompose_large()
            del part  # before the next one is computed
        parts.append((row, own))
    decompose_large()
    return parts


def _finish(parts: _Parts, dtype: str) -> list[Block]:
    blocks = []
    for row, own in parts:
        if all(part is None for part in own):
            continue
        if row.is_matrix:
            blocks.append(_join(row, own, dtype))
        else:
            zero = np.zeros(row.shape, np.float32)
            dense = [zero if part is None else part for part in own]
            blocks.append(Block(row.name, delta=jnp.asarray(np.stack(dense))))
    return blocks


def _join(
    row: ParameterDeltas, parts: Sequence[TruncatedSVD | None], dtype: str
) -> Block:
    """Puts the experts' components side by side, padded to the largest rank."""
    (rows, columns), num_experts = row.shape, len(parts)
    there = [part for part in parts if part is not None]
    width = max(part.u.shape[1] for part in there)
    values = np.zeros((num_experts, max(part.values.size for part in there)))
    energy, kept = np.zeros(num_experts), np.ones(num_experts)
    for k, part in enumerate(parts):
        if part is None:
            continue
        own, keep = np.asarray(part.values, np.float64), part.u.shape[1]
        values[k, : own.size] = own
        energy[k] = np.sum(own**2)
        if keep < own.size and energy[k] > 0:
            kept[k] = np.sum(own[:keep] ** 2) / energy[k]
    # NumPy where all of it is on the host, which compiles nothing.
    xp = np if all(isinstance(part.u, np.ndarray) for part in there) else jnp

    def side(which: str, size: int) -> jax.Array:
        own = [
            xp.zeros((size, width), np.float32)
            if part is None
            else xp.pad(
                xp.asarray(getattr(part, which)),
                ((0, 0), (0, width - part.u.shape[1])),
            )
            for part in parts
        ]
        return jnp.asarray(xp.concatenate(own, axis=1), dtype)

    residual = None
    if any(part.rest is not None for part in there):
        zero = xp.zeros((rows, columns), np.float32)
        rests = [zero if p is None or p.rest is None else p.rest for p in parts]
        residual = jnp.asarray(xp.stack(rests), dtype)
    return Block(
        row.name,
        side("u", rows),
        side("v", columns),
        values,
        energy,
        kept,
        residual,
    )


def _to_float32(delta: Delta | None) -> np.ndarray | None:
    return None if delta is None else delta.dense().astype(np.float32)
