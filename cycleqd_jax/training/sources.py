"""Training data: dialogues of tasks and of JSONL files, as tokenised examples.

A line of a file is `{"messages": [...]}`. A message is `{"role": "system" | "user" |
"assistant", "content": text}`; other keys are ignored. The last message is the
assistant's.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from cycleqd_jax.chat import Message, check_text
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import parse_json
from cycleqd_jax.models.dialogues import Example, examples_of, turn_end
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.tasks.base import Split, Task, reference

ROLES = ("system", "user", "assistant")


class Dialogue(NamedTuple):
    """Attributes: the messages, and their origin for error messages."""

    messages: tuple[Message, ...]
    origin: str


@dataclasses.dataclass(frozen=True)
class Source:
    """The examples of one source.

    Attributes:
      name: of the task or file, as in the config.
      dialogues: how many there were.
      examples: made from them.
      dropped: how many dialogues were left out because they are too long.
    """

    name: str
    dialogues: int
    examples: tuple[Example, ...]
    dropped: int


def task_dialogues(task: Task) -> list[Dialogue]:
    """One correct dialogue for each problem of a task's `train` split."""
    return [
        Dialogue(tuple(task.dialogue(problem)), problem.id)
        for problem in task.problems(Split.TRAIN)
    ]


def validation_dialogues(task: Task) -> list[Dialogue]:
    """The right dialogues of a task's `validate` problems, where one is known."""
    found = [(p.id, reference(task, p)) for p in task.problems(Split.VALIDATE)]
    return [Dialogue(tuple(turns), id_) for id_, turns in found if turns is not None]


def make_source(
    name: str,
    dialogues: Sequence[Dialogue],
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    drop: bool,
) -> Source:
    """Tokenises the dialogues of a source.

    Args:
      name: of the source.
      dialogues: checked messages.
      tokenizer: of the model.
      max_length: tokens an example may have.
      drop: whether to leave out longer dialogues; otherwise they are an error.

    Raises:
      BadInputError: the chat template refuses a dialogue, one is too long, or none is
        left.
    """
    examples: list[Example] = []
    end = turn_end(tokenizer)
    too_long: list[tuple[int, str]] = []
    for dialogue in dialogues:
        try:
            check_text(dialogue.messages)
            found = examples_of(dialogue.messages, tokenizer, end)
        except ValueError as err:
            sentence = str(err).rstrip(".")
            raise BadInputError(f"{dialogue.origin}: {sentence}.") from err
        longest = max((len(e.tokens) for e in found), default=0)
        if longest > max_length:
            too_long.append((longest, dialogue.origin))
        else:
            examples.extend(found)
    if too_long and not (drop and examples):
        longest, origin = max(too_long)
        more = f" and {len(too_long) - 1} more are too long" if too_long[1:] else ""
        advice = "" if drop else ", or leave such dialogues out with too_long=drop"
        raise BadInputError(
            f"optimiser.max_length is {max_length} tokens, but {origin} has {longest}"
            f"{more}; set it to {longest} or more{advice}."
        )
    if not examples:
        raise BadInputError(
            f"{name}: has no dialogue with an assistant's message to train on; set "
            "problems.train above 0, or leave it out."
        )
    return Source(name, len(dialogues), tuple(examples), len(too_long))


def read_dialogues(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Reads and checks a JSONL file; empty lines are ignored.

    Args:
      path: a file in UTF-8.

    Raises:
      BadInputError: naming file and line, if the file cannot be read, has no dialogue,
        or a line is not a dialogue.
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
        origin = f"{os.fspath(path)} line {number}"
        if line.strip():
            found.append(Dialogue(_messages(line, origin), origin))
    if not found:
        raise BadInputError(
            f'{os.fspath(path)}: has no dialogue; expected lines like {{"messages": '
            "[...]}."
        )
    return found


def _messages(line: bytes, origin: str) -> tuple[Message, ...]:
    try:
        data = parse_json(line)
    except (ValueError, RecursionError) as err:  # UnicodeDecodeError is a ValueError
        raise BadInputError(f"{origin}: is not JSON in UTF-8 ({err}).") from err
    messages = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(messages, list) or not messages:
        raise BadInputError(
            f'{origin}: expected an object with a list "messages" that is not empty, '
            f"got {_short(data)}."
        )
    checked = tuple(
        _message(message, f"{origin}, message {i}")
        for i, message in enumerate(messages, start=1)
    )
    if checked[-1]["role"] != "assistant":
        raise BadInputError(
            f"{origin}: the last message is of the {checked[-1]['role']}; expected one "
            "of the assistant, to learn from."
        )
    return checked


def _message(message: Any, origin: str) -> Message:
    if not isinstance(message, dict):
        raise BadInputError(
            f'{origin}: expected an object with "role" and "content", got '
            f"{_short(message)}."
        )
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise BadInputError(
            f"{origin}: its role is {_short(role)}; expected {', '.join(ROLES)}."
        )
    if not isinstance(content, str):
        raise BadInputError(
            f"{origin}: its content is {_short(content)}; expected a text."
        )
    if role == "assistant" and not content.strip():
        raise BadInputError(
            f"{origin}: the assistant's content is empty; expected a reply to learn."
        )
    return {"role": role, "content": content}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
