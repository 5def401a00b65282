"""The tokens of prompts and continuations, without an engine.

Text becomes tokens as in the `hf` model of lm-evaluation-harness: the split between a
prompt and its continuation, what stands for an empty prompt, what is cut on the left.
"""

from collections.abc import Sequence

from cycleqd_jax.chat import ChatOptions, Message
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.tokenizer import ChatTokenizer


def prompt_tokens(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    options: ChatOptions,
    limit: int,
) -> list[int]:
    """The token ids of a prompt whose reply has at most `limit` tokens.

    Raises:
      BadInputError: the chat template refuses the messages.
    """
    tokens = tokenizer.encode_text(_text(tokenizer, messages, options))
    if options.room is not None:
        tokens = tokens[-max(options.room - limit, 1) :]
    return tokens or [tokenizer.begin_id]


def parts(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    continuation: str,
    options: ChatOptions,
) -> list[tuple[list[int], int]]:
    """The token ids to score for a continuation, see `Chat.score`.

    Returns:
      Pairs of token ids and the place from which they are scored: one pair, or, for a
      whole text, one per part.

    Raises:
      BadInputError: the chat template refuses the messages.
    """
    first = [tokenizer.begin_id]  # stands for an empty prompt
    if not messages:
        tokens = first + tokenizer.encode_text(continuation)
        step = options.room or len(tokens)
        ends = [(s, min(s + step, len(tokens))) for s in range(1, len(tokens), step)]
        begins = [max(end - step - 1, 0) for _, end in ends]
        return [
            (tokens[b:end], start - b)
            for b, (start, end) in zip(begins, ends, strict=True)
        ]
    text = _text(tokenizer, messages, options)
    if text:
        kept = text.rstrip()
        start = len(tokenizer.encode_text(kept))
        tokens = tokenizer.encode_text(text + continuation)
    else:
        tokens, start = tokenizer.encode(continuation), 1
        tokens = tokens if tokens[:1] == first else first + tokens
    if options.room is not None:
        cut = max(len(tokens) - options.room - 1, 0)
        tokens, start = tokens[cut:], max(start - cut, 0)
    return [(tokens, start)]


def _text(
    tokenizer: ChatTokenizer, messages: Sequence[Message], options: ChatOptions
) -> str:
    try:
        return tokenizer.render(messages, template=options.template)
    except BadInputError:
        rest = [message for message in messages if message["role"] != "system"]
        if not options.system_optional or len(rest) == len(messages):
            raise
        return tokenizer.render(rest, template=options.template)
