"""The engine's slots and length where its settings leave them open."""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.runs.memory_plan import size_text
from cycleqd_jax.runs.prompts import check_prompts, longest_need
from cycleqd_jax.tasks.base import Split, Task

# More slots than these gain nothing: arithmetic is saturated by then.
_MOST_SLOTS = {"cpu": 64}
_MOST_SLOTS_ELSEWHERE = 256
# What is not counted needs room, too: fragments, the host's other programs.
_SHARE = 0.8


def cache_bytes(model: LlamaConfig, dtype: jnp.dtype | str) -> int:
    """Keys and values of one token."""
    heads = 2 * model.num_hidden_layers * model.num_key_value_heads
    return heads * model.head_dim * jnp.dtype(dtype).itemsize


def sized_engine(
    engine: EngineSettings,
    *,
    tasks: Sequence[Task],
    splits: Iterable[Split],
    tokenizer: ChatTokenizer,
    token_bytes: int,
    room: int,
) -> EngineSettings:
    """The settings with numbers for "auto", checked against the tasks' problems.

    Args:
      engine: the settings.
      tasks: that the engine will answer.
      splits: whose problems.
      tokenizer: of the model.
      token_bytes: of the cache, from `cache_bytes`.
      room: bytes that are left for the cache on all devices of the mesh together.

    Returns:
      With `length` the least multiple of `prefill_chunk` that the longest problem fits
      in, and `slots` as many as there is room for, a multiple of `mesh.data`, at most
      64 on a CPU and 256 elsewhere.

    Raises:
      BadInputError: a problem is longer than a given length, or there is no room for
        `prefill_rows` slots.
    """
    splits = tuple(splits)
    if engine.length == "auto":
        need, _ = longest_need(tasks, splits, tokenizer)
        need = max(need, engine.decode_steps)
        length = -(-need // engine.prefill_chunk) * engine.prefill_chunk
        engine = engine.model_copy(update={"length": length})
    else:
        check_prompts(
            tasks,
            splits,
            tokenizer,
            length=engine.length,
            multiple_of=engine.prefill_chunk,
        )
    return sized_slots(engine, token_bytes=token_bytes, room=room)


def sized_slots(
    engine: EngineSettings, *, token_bytes: int, room: int
) -> EngineSettings:
    """The settings with a number for `slots`; arguments as for `sized_engine`.

    Args:
      engine: with a number for `length`.
      token_bytes: of the cache, from `cache_bytes`.
      room: bytes that are left for the cache on all devices of the mesh together.

    Raises:
      BadInputError: there is no room for `prefill_rows` slots.
    """
    if engine.slots != "auto":
        return engine
    data = engine.mesh.data
    least = -(-engine.prefill_rows // data) * data
    most = max(_MOST_SLOTS.get(jax.default_backend(), _MOST_SLOTS_ELSEWHERE), least)
    one = token_bytes * engine.length
    slots = min(int(room * _SHARE) // one, most) // data * data
    if slots < least:
        left = size_text(max(room, 0))
        raise BadInputError(
            f"engine.slots: {least} slots of {engine.length} tokens need "
            f"{size_text(least * one)} for keys and values, but {left} are left beside "
            "everything else; choose fewer engine.prefill_rows, a lower basis.rank, or "
            "a machine with more memory."
        )
    return engine.model_copy(update={"slots": slots})
