"""Messages, replies and the interface of a chat with a model.

The engine answers conversations and tasks hold them; both import this file, and neither
imports the other.
"""

import dataclasses
import enum
from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, Protocol

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}


def check_text(messages: Sequence[Message]) -> None:
    """Refuses text that no tokeniser takes.

    Raises:
      ValueError: a message has half of a surrogate pair, as a cut emoji leaves.
    """
    for message in messages:
        try:
            message["content"].encode("utf-8")
        except UnicodeEncodeError as err:
            raise ValueError(
                f"the {message['role']}'s text has {err.object[err.start]!r}, half of "
                "a character such as an emoji; cut texts between characters"
            ) from err


class Finish(enum.StrEnum):
    """The reason why a reply ended."""

    STOP = "stop"  # the model ended its turn
    LENGTH = "length"  # the token limit cut it


@dataclasses.dataclass(frozen=True)
class Reply:
    """One reply of a model.

    Attributes:
      text: the decoded answer without the token that ended it.
      tokens: its token ids, the ending one included.
      prompt_tokens: how many tokens the conversation before it had.
      finish: why it ended.
    """

    text: str
    tokens: tuple[int, ...] = ()
    prompt_tokens: int = 0
    finish: Finish = Finish.STOP


@dataclasses.dataclass(frozen=True)
class ChatOptions:
    """Options of one reply; the defaults are the engine's: greedy, own template.

    Attributes:
      template: Jinja text of a chat template in place of the model's own.
      stop_strings: texts that end the reply and are none of it.
      temperature: 0 is greedy.
      top_p: only the smallest set of tokens whose probabilities add up to p.
      top_k: only the k most likely tokens; 0 takes all.
      seed: of the draws of this reply.
      max_new_tokens: the most tokens of this reply; None takes the task's limit.
      room: tokens of prompt and reply together, for prompts that are then cut on the
        left; None cuts none.
      system_optional: whether the system's message is left out where the template has
        no such role, instead of an error.
    """

    template: str | None = None
    stop_strings: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    max_new_tokens: int | None = None
    room: int | None = None
    system_optional: bool = False


class Likelihood(NamedTuple):
    """The likelihood of a given text under a model.

    Attributes:
      logprob: natural logarithm of the text's probability.
      is_greedy: whether every token of it is the most likely one.
    """

    logprob: float
    is_greedy: bool


# The chat template of a prompt that is plain text.
PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
DEFAULT_CHAT = ChatOptions()


class Chat(Protocol):
    """Asks the model for its next reply."""

    def __call__(
        self, messages: Sequence[Message], options: ChatOptions = DEFAULT_CHAT
    ) -> Awaitable[Reply]:
        """One reply.

        Args:
          messages: the conversation so far. If the last is the assistant's, it is the
            beginning of the reply: its text is put behind where the reply begins,
            and is no part of what comes back.
          options: leave them out where the default will do.
        """
        ...

    def score(
        self,
        messages: Sequence[Message],
        continuation: str,
        options: ChatOptions = DEFAULT_CHAT,
    ) -> Awaitable[Likelihood]:
        """The log-probability of a given continuation; nothing is generated.

        A chat that plays recorded replies lacks this method.

        Args:
          messages: as for a reply. Spaces at the end of the prompt belong to the
            continuation. Without any, the continuation is a whole text, which is scored
            in parts of `options.room` tokens.
          continuation: what is scored.
          options: `template`, `room` and `system_optional`.
        """
        ...
