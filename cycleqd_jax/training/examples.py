"""Supervised examples from dialogues: token ids, and which of them are learnt."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.chat import ChatTokenizer
from cycleqd_jax.tasks.base import Message


@dataclasses.dataclass(frozen=True)
class Example:
    """One reply to learn.

    Attributes:
      tokens: the conversation and the reply with the token that ends it.
      prompt_length: how many of them come before the reply and bear no loss.
    """

    tokens: tuple[int, ...]
    prompt_length: int


class Batch(NamedTuple):
    """B examples as arrays.

    Attributes:
      tokens: int32 `[B, L]`, padded on the right.
      positions: int32 `[B, A]`, indices whose NEXT token is learnt.
      targets: int32 `[B, A]`, those next tokens.
      mask: float32 `[B, A]`, 1 where a target is real.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    mask: np.ndarray


def examples_of(dialogue: Sequence[Message], tokenizer: ChatTokenizer) -> list[Example]:
    """One example per assistant message, each after the conversation before it.

    The prompt is made exactly as the engine makes it, so that training and inference
    see the same tokens.
    """
    found = []
    for i, message in enumerate(dialogue):
        if message["role"] == "assistant":
            prompt = tokenizer.encode_chat(dialogue[:i])
            answer = [*tokenizer.encode(message["content"]), _turn_end(tokenizer)]
            found.append(Example((*prompt, *answer), len(prompt)))
    return found


def _turn_end(tokenizer: ChatTokenizer) -> int:
    """The stop token that the chat template writes after a reply."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = tokenizer.encode_chat(turns, add_generation_prompt=False)
    stops = [token for token in ids if token in tokenizer.stop_ids]
    return stops[-1] if stops else tokenizer.eos_id


def batches(
    examples: Sequence[Example], *, batch_size: int, max_length: int, seed: int
) -> Iterator[Batch]:
    """Endless batches of one shape; every epoch is a new shuffle drawn from `seed`.

    Raises:
      BadInputError: for no examples, or one that is longer than `max_length`.
    """
    if not examples:
        raise BadInputError(
            "The train split has no examples; set problems.train above 0."
        )
    longest = max(len(e.tokens) for e in examples)
    if longest > max_length:
        raise BadInputError(
            f"optimiser.max_length is {max_length} tokens, but the longest training "
            f"example has {longest}; set it to {longest} or more."
        )
    answers = max(len(e.tokens) - e.prompt_length for e in examples)
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while True:
        while len(order) < batch_size:
            order.extend(rng.permutation(len(examples)).tolist())
        chosen, order = order[:batch_size], order[batch_size:]
        yield _stack([examples[i] for i in chosen], longest, answers)


def _stack(examples: Sequence[Example], length: int, answers: int) -> Batch:
    tokens = np.zeros((len(examples), length), np.int32)
    positions, targets = np.zeros((2, len(examples), answers), np.int32)
    mask = np.zeros((len(examples), answers), np.float32)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = example.tokens
        learnt = example.tokens[example.prompt_length :]
        start = example.prompt_length - 1
        positions[row, : len(learnt)] = np.arange(start, start + len(learnt))
        targets[row, : len(learnt)] = learnt
        mask[row, : len(learnt)] = 1.0
    return Batch(tokens, positions, targets, mask)
