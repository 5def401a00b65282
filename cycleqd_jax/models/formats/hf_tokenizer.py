"""The tokeniser of a Hugging Face folder, without torch."""

import os
import pathlib

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.tokenizer import ChatTokenizer


def read_tokenizer(folder: str | os.PathLike[str]) -> ChatTokenizer:
    """Reads `tokenizer.json` and what belongs to it.

    Args:
      folder: holds `tokenizer.json`, `tokenizer_config.json` and perhaps
        `chat_template.jinja` and `generation_config.json`.

    Returns:
      The tokeniser.

    Raises:
      BadInputError: naming the file that is missing or damaged.
    """
    from transformers import PreTrainedTokenizerFast

    folder = pathlib.Path(folder)
    if not (folder / "tokenizer.json").exists():
        raise BadInputError(
            f"{folder}: has no tokenizer.json; save the tokeniser with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    safetensors.read_json(folder / "tokenizer.json")
    if (folder / "tokenizer_config.json").exists():
        safetensors.read_json(folder / "tokenizer_config.json")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            str(folder), local_files_only=True
        )
    # tokenizers raises plain Exception for a malformed tokenizer.json
    except Exception as err:
        raise BadInputError(
            f"{folder}: its tokeniser cannot be read: {type(err).__name__}: {err}"
        ) from err
    return ChatTokenizer(tokenizer, eos_ids=_eos_ids(folder))


def read_vocabulary(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Every token of a folder's `tokenizer.json` and its id.

    Args:
      folder: holds the file.

    Returns:
      Ids by token, added tokens included.

    Raises:
      BadInputError: if the file is damaged.
    """
    from tokenizers import Tokenizer

    path = pathlib.Path(folder) / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path)).get_vocab()
    except Exception as err:  # tokenizers has nothing narrower
        raise BadInputError(f"{path}: cannot be read: {err}") from err


def _eos_ids(folder: pathlib.Path) -> list[int]:
    for name in ("generation_config.json", "config.json"):
        if not (folder / name).exists():
            continue
        found = safetensors.read_json(folder / name).get("eos_token_id")
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(isinstance(i, int) and i >= 0 for i in ids):
            raise BadInputError(
                f"{folder / name}: eos_token_id must be token ids, but is {found!r}"
            )
        if ids:
            return ids
    return []
