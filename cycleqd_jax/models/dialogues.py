"""Supervised examples from dialogues: token ids, and which of them are learnt."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from cycleqd_jax.chat import Message
from cycleqd_jax.models.tokenizer import ChatTokenizer


@dataclasses.dataclass(frozen=True)
class Example:
    """A conversation with the replies to learn.

    Attributes:
      tokens: token ids; each reply is followed by the token that ends it.
      learnt: rising indices of those that bear loss, from 1.
    """

    tokens: tuple[int, ...]
    learnt: tuple[int, ...]


def examples_of(
    dialogue: Sequence[Message], tokenizer: ChatTokenizer, end: int
) -> list[Example]:
    """The assistant messages of a dialogue, each after the conversation before it.

    What comes before a reply is made exactly as the engine makes a prompt, so that
    training and inference see the same tokens. Where the template writes a later prompt
    as the earlier one with its reply and more, which is the rule, one example has
    them all; else a reply gets an example of its own.

    Args:
      dialogue: messages.
      tokenizer: of the model.
      end: the token that ends a reply, see `turn_end`.

    Raises:
      BadInputError: the chat template refuses these messages.
    """
    found: list[Example] = []
    for i, message in enumerate(dialogue):
        if message["role"] != "assistant":
            continue
        prompt = tuple(tokenizer.encode_chat(dialogue[:i]))
        answer = (*tokenizer.encode(message["content"]), end)
        tokens = (*prompt, *answer)
        learnt = tuple(range(len(prompt), len(tokens)))
        if found and prompt[: len(found[-1].tokens)] == found[-1].tokens:
            learnt = (*found.pop().learnt, *learnt)
        found.append(Example(tokens, learnt))
    return found


def fingerprint(sources: Iterable[tuple[float, Sequence[Example]]]) -> str:
    """Sha256 (hex) of weighted sources of examples, in their order."""
    digest = hashlib.sha256()
    for weight, examples in sources:
        digest.update(f"{weight!r} {len(examples)}\n".encode())
        for example in examples:
            for numbers in (example.tokens, example.learnt):
                array = np.asarray(numbers, "<i8")
                digest.update(len(array).to_bytes(8, "little") + array.tobytes())
    return digest.hexdigest()


def turn_end(tokenizer: ChatTokenizer) -> int:
    """The stop token that the chat template writes after a reply."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = tokenizer.encode_chat(turns, add_generation_prompt=False)
    stops = [token for token in ids if token in tokenizer.stop_ids]
    return stops[-1] if stops else tokenizer.eos_id
