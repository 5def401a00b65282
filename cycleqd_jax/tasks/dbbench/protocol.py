"""The files beside the problems: the prompt, the reference's ids, its chat template.

They are data of the benchmark and not part of this library. They lie beside the problem
file, as `prompt.json` and `cycleqd_task_ids.json`, or as `agentbench_db.py` of the
reference's repository, which has both; only its constants are read.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.chat import Message
from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.files import read_json
from cycleqd_jax.tasks.data import find_file, read_constant
from cycleqd_jax.tasks.published import Published

DATA = "cycleqd_standard_dev.jsonl"
PROMPT, IDS, TEMPLATES = "prompt.json", "cycleqd_task_ids.json", "chat_templates.json"
_SOURCE = "agentbench_db.py"
_DOWNLOADED = "data_dbbench_standard_dev.jsonl"  # the same file's name there
PUBLISHED = Published(
    "dbbench",
    {
        _DOWNLOADED: (
            f"evaluation/fishfarm/data/db/{_DOWNLOADED}",
            "1065651d07b63693435a60460e6a6bfc3cc0512df2d8252f7fff3c93a12284bc",
        ),
        _SOURCE: (
            f"tasks/{_SOURCE}",
            "0b467ea70d23047acffbc7bcc56e5aefdee87e0b809139b392a5196394733f4c",
        ),
    },
)
# What stands for a problem's own texts in the last message.
_PLACE = re.compile(r"\{description\}\n\{add_description\}")


def find_data(given: str | None, download: bool) -> pathlib.Path:
    """The problem file.

    Args:
      given: `task_settings.dbbench.data`.
      download: whether it may be fetched where nothing was given.

    Raises:
      MissingDataError: it is not here and cannot be downloaded.
      BadInputError: the given file does not exist.
    """
    if given is not None:
        folder = pathlib.Path(given)
        for path in (folder / _DOWNLOADED, folder / "dbbench" / DATA):
            if not (folder / DATA).is_file() and path.is_file():
                return path
    return find_file(
        "dbbench",
        given,
        DATA,
        lambda: PUBLISHED.fetch(download) / _DOWNLOADED,
        PUBLISHED.how,
    )


def read_messages(data: pathlib.Path) -> tuple[Message, ...]:
    """The messages before the first reply; the last one has a place for the problem.

    Args:
      data: the problem file; the prompt lies beside it.

    Raises:
      MissingDataError: it is not there.
      BadInputError: it is not a prompt.
    """
    path = data.parent / PROMPT
    if not path.is_file():
        return _messages_of_source(data)
    content = read_json(path)
    messages = content.get("messages") if isinstance(content, dict) else None
    if not isinstance(messages, list) or not messages or not all(map(_said, messages)):
        raise BadInputError(
            f"{path}: expected an object with messages, each with the texts role and "
            "content."
        )
    if not _PLACE.search(messages[-1]["content"]):
        raise BadInputError(
            f"{path}: the last message has no {{description}} and {{add_description}} "
            "on lines of their own, where the problem would be put in."
        )
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)


def fill(messages: tuple[Message, ...], prompt: str) -> tuple[Message, ...]:
    """The messages with a problem's text in its place."""
    *first, last = messages
    content = _PLACE.sub(lambda _: prompt, last["content"])
    return (*first, {**last, "content": content})


def read_ids(data: pathlib.Path) -> tuple[int, ...]:
    """The indices of the problems that the reference optimises on.

    Raises:
      MissingDataError: they are not beside the problem file.
      BadInputError: the file has no list of indices.
    """
    path = data.parent / IDS
    source = data.parent / _SOURCE
    if path.is_file():
        ids = read_json(path)
    elif source.is_file():
        ids, path = read_constant(source, "_task_ids", PUBLISHED.how), source
    else:
        raise _missing(IDS, data, "task_settings.dbbench.split: reference")
    if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
        raise BadInputError(f"{path}: expected a list of indices of problems.")
    return tuple(ids)


def read_template(data: pathlib.Path) -> str:
    """The reference's chat template, Jinja.

    Raises:
      MissingDataError: it is neither beside the problem file nor in the folder above.
      BadInputError: the file has none.
    """
    for folder in (data.parent, data.parent.parent):
        path = folder / TEMPLATES
        if path.is_file():
            content = read_json(path)
            template = content.get("llama3") if isinstance(content, dict) else None
            if not isinstance(template, str):
                raise BadInputError(f"{path}: expected an object with the text llama3.")
            return template
    raise _missing(TEMPLATES, data, "task_settings.dbbench.chat_template: reference")


def _said(message: Any) -> bool:
    return isinstance(message, Mapping) and all(
        isinstance(message.get(key), str) for key in ("role", "content")
    )


def _messages_of_source(data: pathlib.Path) -> tuple[Message, ...]:
    path = data.parent / _SOURCE
    if not path.is_file():
        raise _missing(PROMPT, data, "task dbbench")
    rules = read_constant(path, "db_prompt_template", PUBLISHED.how)
    if not isinstance(rules, str):
        raise BadInputError(f"{path}: expected db_prompt_template to be a text.")
    return (
        {"role": "user", "content": rules},
        {"role": "assistant", "content": "Ok."},
        {"role": "user", "content": "{description}\n{add_description}"},
    )


def _missing(name: str, data: pathlib.Path, needs: str) -> MissingDataError:
    return MissingDataError(
        f"{needs} needs {name} in the folder {data.parent}, beside the problem file, "
        f"but it is not there; get problems and prompt with: {PUBLISHED.how}"
    )
