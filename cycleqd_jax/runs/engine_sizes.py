"""Sizes of the engine: checks its length and slots, or chooses them."""

from collections.abc import Iterable, Sequence

import jax

from cycleqd_jax.chat import check_text
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation import chat_tokens
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.dialogues import examples_of, turn_end
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.runs.device_memory import cache_bytes
from cycleqd_jax.runs.memory import size_text, this_machine
from cycleqd_jax.tasks.base import Problem, Split, Task, questions, reference

# More slots gain nothing, because arithmetic is the bottleneck by then.
_MOST_SLOTS = {"cpu": 64}
_MOST_SLOTS_ELSEWHERE = 256
_CACHE_SHARE = 0.8  # of the room; the rest is for what is not counted
_ALONE_SHARE = 1 / 3  # of the memory, for keys and values of an engine without a search


def check_prompts(
    tasks: Sequence[Task],
    splits: Iterable[Split],
    tokenizer: ChatTokenizer,
    engine: EngineSettings,
) -> EngineSettings:
    """Checks that every problem fits in the engine's length, or chooses the length.

    A problem needs its right conversation with the longest last reply.

    Returns:
      The settings. For a length of "auto" they have the smallest multiple of
      `prefill_chunk` that the longest problem fits in.

    Raises:
      BadInputError: names the longest problem and the length that it needs.
    """
    need, longest = max(
        (
            (tokens_needed(task, problem, tokenizer), problem.id)
            for split in splits
            for task in tasks
            for problem in task.problems(split)
        ),
        default=(0, ""),
    )
    return with_room(
        engine,
        max(need, engine.decode_steps) if engine.length == "auto" else need,
        f"{longest} needs {need} with its reply; set it to "
        f"{_round_up(need, engine.prefill_chunk)} or more.",
    )


def with_room(
    engine: EngineSettings, need: int, refusal: str, *, may_grow: bool = False
) -> EngineSettings:
    """The settings, with a length that `need` tokens fit in.

    Args:
      engine: a length of "auto" becomes the smallest multiple of `prefill_chunk`.
      need: tokens.
      refusal: who needs them, and what to do, as the end of a sentence.
      may_grow: whether a number was "auto" before, and so may become larger.

    Raises:
      BadInputError: the length is a smaller number that may not grow.
    """
    if engine.length != "auto" and need <= engine.length:
        return engine
    if engine.length == "auto" or may_grow:
        length = _round_up(need, engine.prefill_chunk)
        return engine.model_copy(update={"length": length})
    raise BadInputError(f"engine.length is {engine.length} tokens, but {refusal}")


def check_references(
    tasks: Sequence[Task],
    split: Split,
    tokenizer: ChatTokenizer,
    engine: EngineSettings,
    *,
    may_grow: bool = False,
) -> EngineSettings:
    """Checks that the right conversation of every problem fits, to be scored.

    Args:
      tasks: all of them.
      split: whose problems.
      tokenizer: of the model.
      engine: with a number for the length.
      may_grow: as for `with_room`.

    Returns:
      The settings, with a larger length where it may grow and must.

    Raises:
      BadInputError: names the longest and the length that it needs.
    """
    end = turn_end(tokenizer)
    lengths = [
        (len(example.tokens), problem.id)
        for task in tasks
        for problem in task.problems(split)
        for example in examples_of(reference(task, problem) or (), tokenizer, end)
    ]
    need, longest = max(lengths, default=(0, ""))
    return with_room(
        engine,
        need,
        f"the right answer of {longest} needs {need} to be scored; set it to "
        f"{_round_up(need, engine.prefill_chunk)} or more.",
        may_grow=may_grow,
    )


def check_length(engine: EngineSettings, model: ModelConfig) -> None:
    """Refuses conversations that are longer than the model's context.

    Up to one `prefill_chunk` of padding may lie beyond it.

    Args:
      engine: a length of "auto" passes.
      model: sizes of the base model.

    Raises:
      BadInputError: gives both numbers.
    """
    longest = model.max_position_embeddings
    if engine.length != "auto" and engine.length - engine.prefill_chunk >= longest:
        raise BadInputError(
            f"engine.length is {engine.length} tokens, but the base model was made for "
            f"at most {longest}; choose a shorter length, with prompts and "
            "max_new_tokens that fit in it."
        )


def tokens_needed(task: Task, problem: Problem, tokenizer: ChatTokenizer) -> int:
    """Tokens of a problem's longest prompt with its reply, or text to score.

    Raises:
      BadInputError: a message cannot be encoded.
    """
    lengths = [0]
    for messages, continuation, options in questions(task, problem):
        try:
            check_text(messages)
        except ValueError as err:
            raise BadInputError(f"Problem {problem.id}: {err}.") from err
        if continuation is None:
            limit = options.max_new_tokens or task.max_new_tokens
            prompt = chat_tokens.prompt_tokens(tokenizer, messages, options, limit)
            lengths.append(len(prompt) + limit)
        else:
            # The last token is only a target.
            scored = chat_tokens.parts(tokenizer, messages, continuation, options)
            lengths += [len(tokens) - 1 for tokens, _ in scored]
    return max(lengths)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def choose_slots(engine: EngineSettings, token_bytes: int, room: int) -> EngineSettings:
    """Settings with a number for slots of "auto": as many as there is room for.

    Args:
      engine: the settings, with a number for the length.
      token_bytes: size of one token's keys and values, from `cache_bytes`.
      room: bytes for the cache, on all devices together.

    Returns:
      Slots are a multiple of `mesh.data`, at most 64 on a CPU and 256 elsewhere.

    Raises:
      BadInputError: there is no room for `prefill_rows` slots.
    """
    if engine.slots != "auto":
        return engine
    data, one = engine.mesh.data, token_bytes * engine.length
    least = _round_up(engine.prefill_rows, data)
    most = max(_MOST_SLOTS.get(jax.default_backend(), _MOST_SLOTS_ELSEWHERE), least)
    slots = min(int(room * _CACHE_SHARE) // one, most) // data * data
    if slots < least:
        raise BadInputError(
            f"engine.slots: {least} slots of {engine.length} tokens need "
            f"{size_text(least * one)} for keys and values, but "
            f"{size_text(max(room, 0))} are left beside everything else; choose fewer "
            "engine.prefill_rows, a lower basis.rank, or a machine with more memory."
        )
    return engine.model_copy(update={"slots": slots})


def choose_slots_alone(
    engine: EngineSettings, model: ModelConfig, dtype: str
) -> EngineSettings:
    """Like `choose_slots`, for an engine that shares its memory with no search.

    Args:
      engine: the settings, with a number for the length.
      model: sizes of the base model.
      dtype: of the computation.
    """
    machine, mesh = this_machine(), engine.mesh
    devices = (machine.device_bytes or 0) * mesh.data * mesh.tensor
    room = int((devices or machine.host_bytes) * _ALONE_SHARE)
    return choose_slots(engine, cache_bytes(model, dtype), room)
