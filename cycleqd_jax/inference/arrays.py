"""The arrays that a device call takes, made from the conversations in its rows.

Rows beyond those of conversations are padding: programs compute them and drop the
results, so that few shapes are compiled.
"""

from collections.abc import Sequence

import numpy as np

from cycleqd_jax.inference.programs import DecodeState, PrefillChunk
from cycleqd_jax.inference.sampling import RowSampling, row_sampling
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.inference.slots import BatchRow


def prefill_chunk(
    rows: Sequence[BatchRow], settings: EngineSettings, num_rows: int
) -> PrefillChunk:
    """The next chunk of each prompt, padded to `num_rows` rows."""
    tokens = np.zeros((num_rows, settings.prefill_chunk), np.int32)
    slots = np.full(num_rows, settings.slots, np.int32)
    offsets, last, lengths, individuals = np.zeros((4, num_rows), np.int32)
    for i, row in enumerate(rows):
        request = row.request
        end = request.chunk_end(settings.prefill_chunk)
        new = request.prompt[request.prefilled : end]
        tokens[i, : len(new)] = new
        slots[i] = row.slot
        offsets[i], last[i] = request.prefilled, len(new) - 1
        lengths[i] = len(request.prompt)
        individuals[i] = row.conversation.individual
    return PrefillChunk(tokens, slots, offsets, last, lengths, individuals)


def score_targets(
    rows: Sequence[BatchRow], settings: EngineSettings, num_rows: int
) -> np.ndarray:
    """The token after each token of `prefill_chunk`, int32 `[num_rows, chunk]`."""
    chunk_size = settings.prefill_chunk
    targets = np.zeros((num_rows, chunk_size), np.int32)
    for i, row in enumerate(rows):
        request = row.request
        end = request.chunk_end(chunk_size) + 1
        after = request.prompt[request.prefilled + 1 : end]
        targets[i, : len(after)] = after
    return targets


def decode_state(
    rows: Sequence[BatchRow],
    indices: Sequence[int],
    settings: EngineSettings,
    num_rows: int,
) -> DecodeState:
    """The newest token of each reply; the call's row `indices[i]` is `rows[i]`'s."""
    tokens, lengths, individuals, remaining = np.zeros((4, num_rows), np.int32)
    # Padding rows write past the end of the cache; XLA drops such writes.
    lengths[:] = settings.length
    for i, row in zip(indices, rows, strict=True):
        request = row.request
        tokens[i] = request.generated[-1]
        lengths[i] = len(request.prompt) + len(request.generated) - 1
        individuals[i] = row.conversation.individual
        remaining[i] = request.limits.max_new_tokens - len(request.generated)
    return DecodeState(tokens, lengths, individuals, remaining)


def sampling(
    rows: Sequence[BatchRow], indices: Sequence[int], num_rows: int
) -> RowSampling:
    """Sampling parameters; the call's row `indices[i]` is `rows[i]`'s."""
    settings = [row.request.sampling for row in rows]
    generated = [len(row.request.generated) for row in rows]
    return row_sampling(settings, generated, indices, num_rows)
