"""Converted copies of GGUF files, so that only the first load dequantises.

A copy is a Hugging Face folder in float32, named by the hash of the file it was made
from, written beside its place and renamed, so that it is either whole or absent. It is
only ever a saving of time: where it cannot be kept, loading goes on without it.
"""

import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping

import numpy as np

from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.tokenizer import ChatTokenizer

_LOG = logging.getLogger(__name__)
# Part of every copy's name; a change of what conversion yields must change it.
_VERSION = "1"
_MAX_BYTES = 8 << 30


def converted_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """Where the converted copy of a GGUF file belongs; it need not exist.

    Args:
      path: a readable file.

    Returns:
      `$XDG_CACHE_HOME/cycleqd_jax/gguf/<hash>`, by default under `~/.cache`.
    """
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    base = pathlib.Path(root).expanduser()
    return base / "cycleqd_jax" / "gguf" / f"{digest[:32]}-{_VERSION}"


def store(
    folder: pathlib.Path,
    config: LlamaConfig,
    weights: Mapping[str, np.ndarray],
    tokenizer: ChatTokenizer,
) -> bool:
    """Keeps a converted copy, if there is room for it.

    Args:
      folder: from `converted_folder`.
      config: the model's config.
      weights: its float32 weights.
      tokenizer: its tokeniser.

    Returns:
      Whether the copy is there now.
    """
    size = sum(weight.nbytes for weight in weights.values())
    scratch = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if size > _MAX_BYTES or size * 2 > shutil.disk_usage(folder.parent).free:
            _LOG.info("no converted copy kept: %d bytes are too many", size)
            return False
        scratch = tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent)
        tokenizer.save(scratch)
        safetensors.write_safetensors(
            os.path.join(scratch, safetensors.WEIGHTS), weights
        )
        data = config.to_hf() | {"eos_token_id": list(tokenizer.stop_ids)}
        pathlib.Path(scratch, "config.json").write_text(json.dumps(data, indent=2))
        os.rename(scratch, folder)
    except OSError as err:
        _LOG.info("no converted copy kept in %s: %s", folder, err)
        return folder.exists()
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return True


def discard(folder: pathlib.Path) -> None:
    """Removes a copy that turned out to be damaged; what cannot be removed stays.

    Args:
      folder: from `converted_folder`.
    """
    _LOG.info("the converted copy %s is damaged and made again", folder)
    shutil.rmtree(folder, ignore_errors=True)
