"""A user's own dialogues: one JSON object per line, `{"messages": [...]}`.

Each message is `{"role": "system" | "user" | "assistant", "content": text}`; further
keys, of a line or a message, are passed over. The last message is the assistant's.
"""

import json
import os
import pathlib
from typing import Any, NamedTuple

from cycleqd_jax.chat import Message
from cycleqd_jax.errors import BadInputError

ROLES = ("system", "user", "assistant")


class Dialogue(NamedTuple):
    """Attributes: the messages, and where they came from, for error messages."""

    messages: tuple[Message, ...]
    where: str


def read_dialogues(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Reads and checks every line of a file; empty lines are passed over.

    Args:
      path: a file in UTF-8.

    Raises:
      BadInputError: naming file and line, if the file cannot be read, a line is no
        such dialogue, or there is none.
    """
    try:
        lines = pathlib.Path(path).read_bytes().split(b"\n")
    except OSError as err:
        raise BadInputError(
            f"{os.fspath(path)}: cannot be read ({err.strerror}); expected a file of "
            "dialogues, one JSON object per line."
        ) from err
    found = []
    for number, line in enumerate(lines, start=1):
        where = f"{os.fspath(path)} line {number}"
        if line.strip():
            found.append(Dialogue(_messages(line, where), where))
    if not found:
        raise BadInputError(
            f'{os.fspath(path)}: has no dialogue; expected lines like {{"messages": '
            "[...]}."
        )
    return found


def _messages(line: bytes, where: str) -> tuple[Message, ...]:
    try:
        data = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as err:  # UnicodeDecodeError is a ValueError
        raise BadInputError(f"{where}: is not JSON in UTF-8 ({err}).") from err
    messages = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(messages, list) or not messages:
        raise BadInputError(
            f'{where}: expected an object with a list "messages" that is not empty, '
            f"got {_short(data)}."
        )
    checked = tuple(_message(m, f"{where}, message {i}")
                    for i, m in enumerate(messages, start=1))  # fmt: skip
    if checked[-1]["role"] != "assistant":
        raise BadInputError(
            f"{where}: ends with a message of the {checked[-1]['role']}; expected the "
            "assistant's, which is what is learnt."
        )
    return checked


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise BadInputError(
            f'{where}: expected an object with "role" and "content", got '
            f"{_short(message)}."
        )
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise BadInputError(
            f"{where}: its role is {_short(role)}; expected {', '.join(ROLES)}."
        )
    if not isinstance(content, str):
        raise BadInputError(
            f"{where}: its content is {_short(content)}; expected a text."
        )
    if role == "assistant" and not content.strip():
        raise BadInputError(
            f"{where}: the assistant says nothing; expected a reply to learn."
        )
    return {"role": role, "content": content}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
