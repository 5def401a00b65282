"""Loads base models and experts, whatever form they come in.

package:PACKAGE/FILE.gguf   a GGUF file inside an installed Python package
path/to/model.gguf          a GGUF file
path/to/folder              a Hugging Face folder, or a PEFT adapter (experts only)
org/name@revision           the same on the Hugging Face hub
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models import chat_template
from cycleqd_jax.models.base import HEAD, ModelConfig
from cycleqd_jax.models.experts import (
    Expert,
    FullExpert,
    LoraExpert,
    weights_fingerprint,
)
from cycleqd_jax.models.formats import (
    gguf,
    gguf_tokenizer,
    hf_folder,
    peft,
    safetensors,
)
from cycleqd_jax.models.locate import is_hub_name, locate
from cycleqd_jax.models.tokenizer import ChatTokenizer
from cycleqd_jax.models.validated import read_object

# Rope kinds for which the longest context decides the frequencies. For others a
# fine-tune may have another `max_position_embeddings` than its base.
_CONTEXT_MATTERS = ("dynamic", "yarn", "longrope")
# To recognise a base model, this many rows of each weight are compared. Another model
# differs in all of them; the same model in another dtype differs by its rounding.
_ROWS = 16
_ROUNDING = 0.01  # relative to the largest value


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A base model in memory.

    Attributes:
      config: sizes and constants.
      weights: `{Hugging Face name: array}`, exactly `config.weight_shapes()`.
      tokenizer: text to ids and back, with the chat template.
      source: where it came from, as given.
    """

    config: ModelConfig
    weights: Mapping[str, np.ndarray]
    tokenizer: ChatTokenizer
    source: str

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of all that decides its answers, as it was read.

        These are the weights' names, dtypes, shapes and values, the settings and the
        tokeniser.
        """
        parts = [weights_fingerprint(self.weights), self.config.to_hf()]
        parts.append(self.tokenizer.fingerprint)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load_model(
    source: str | os.PathLike[str],
    dtype: Any = "float32",
    date: datetime.date = chat_template.DATE,
) -> LoadedModel:
    """Loads a base model with its tokeniser.

    Args:
      source: one of the forms in the module docstring; an existing path wins over a
        hub name.
      dtype: "float32", "bfloat16" or "float16"; weights are cast to it.
      date: for a chat template that prints the day.

    Raises:
      BadInputError: if nothing is there, or it is damaged or no model of a supported
        family.
    """
    wanted, source = safetensors.check_dtype(dtype), os.fspath(source)
    path = locate(source)
    if path.is_file():
        config, stored, tokenizer = _open_gguf(path)
    else:
        config, stored = hf_folder.open_model(path)
        tokenizer = hf_folder.read_tokenizer(path)
    _check_embedding(tokenizer, config, path)
    weights = {
        name: stored[name].astype(wanted, copy=False) for name in config.weight_shapes()
    }
    return LoadedModel(config, weights, tokenizer.on(date), source)


def load_tokenizer(source: str | os.PathLike[str]) -> ChatTokenizer:
    """Loads only the tokeniser of a base model; errors as for `load_model`."""
    path = locate(os.fspath(source))
    if path.is_file():
        metadata = gguf.read_gguf_metadata(_check_gguf(path))
        return gguf_tokenizer.tokenizer_from_metadata(metadata, str(path))
    return hf_folder.read_tokenizer(path)


def load_expert(path: str | os.PathLike[str], base: LoadedModel) -> Expert:
    """Loads an expert of a base model.

    Args:
      path: a PEFT LoRA folder, the Hugging Face folder of a full fine-tune, or the
        hub name `org/name@revision` of one of them.
      base: the model it was fine-tuned from.

    Returns:
      `LoraExpert` with float32 factors, or `FullExpert` whose weights are read when
      they are asked for.

    Raises:
      BadInputError: if it is missing, damaged, of another kind (DoRA, ...), or not a
        fine-tune of this base; names what differs, with both values.
    """
    folder = pathlib.Path(path).expanduser()
    if is_hub_name(os.fspath(path)):
        folder = locate(os.fspath(path))
    expert = open_expert(folder, base.config, base.weights)
    if isinstance(expert, LoraExpert):
        _check_named_base(folder / peft.CONFIG, base)
    _check_same_vocabulary(folder, base)
    return expert


def open_expert(
    folder: pathlib.Path,
    config: ModelConfig,
    base_weights: Mapping[str, np.ndarray] | None = None,
) -> Expert:
    """An expert of a base model of which only the config need be known.

    Args:
      folder: as for `load_expert`.
      config: the base model's.
      base_weights: the base model's; without them copies of base weights in an adapter
        are not compared.

    Raises:
      BadInputError: as for `load_expert`.
    """
    if not folder.is_dir():
        raise BadInputError(
            f"expert {os.fspath(folder)!r}: no such folder; expected a PEFT adapter or "
            "a full model"
        )
    if (folder / peft.CONFIG).exists():
        return LoraExpert(*peft.read_adapter(folder, config, base_weights))
    if not (folder / "config.json").exists():
        raise BadInputError(
            f"expert {folder}: has neither {peft.CONFIG} nor config.json"
        )
    own, weights = hf_folder.open_model(folder)
    _check_same_model(folder, own, config)
    return FullExpert(weights)


def open_config(path: pathlib.Path) -> ModelConfig:
    """The config of a base model's file or folder; its weights are not read.

    Raises:
      BadInputError: as for `load_model`, except for the tokeniser.
    """
    if path.is_file():
        return gguf.read_gguf_config(_check_gguf(path))
    return hf_folder.open_model(path)[0]


def _open_gguf(
    path: pathlib.Path,
) -> tuple[ModelConfig, Mapping[str, np.ndarray], ChatTokenizer]:
    config, weights, metadata = gguf.read_gguf(_check_gguf(path))
    safetensors.check_weights(weights, config, path)
    tokenizer = gguf_tokenizer.tokenizer_from_metadata(metadata, str(path))
    return config, weights, tokenizer


def _check_gguf(path: pathlib.Path) -> pathlib.Path:
    if path.suffix.lower() != ".gguf":
        raise BadInputError(
            f"{path}: expected a .gguf file or a folder; pass the folder that holds "
            "config.json"
        )
    return path


def _check_embedding(
    tokenizer: ChatTokenizer, config: ModelConfig, path: pathlib.Path
) -> None:
    """Refuses tokens beyond the embedding, except padding, which no prompt has."""
    beyond = {i for i in tokenizer.vocabulary.values() if i >= config.vocab_size}
    if beyond - {tokenizer.pad_id}:
        raise BadInputError(
            f"{path}: its tokeniser has {tokenizer.vocab_size} tokens, but its "
            f"embedding has {config.vocab_size} rows; use the tokeniser that the model "
            "was trained with"
        )


def _check_same_model(
    folder: pathlib.Path, expert: ModelConfig, base: ModelConfig
) -> None:
    own, others = expert.to_hf(), base.to_hf()
    kind = (others.get("rope_scaling") or {}).get("rope_type")
    # Plain settings first: rope_theta is also part of the nested rope_parameters.
    names = sorted(own | others, key=lambda n: (isinstance(own.get(n), Mapping), n))
    for name in names:
        if name == "max_position_embeddings" and kind not in _CONTEXT_MATTERS:
            continue
        if not _same(own.get(name), others.get(name)):
            raise BadInputError(
                f"expert {folder}: its {name} is {own.get(name)!r}, but the base "
                f"model's is {others.get(name)!r}; experts must be fine-tunes of one "
                "base"
            )


def _same(own: Any, other: Any) -> bool:
    """Equality; numbers are compared in float32, because GGUF files store those."""
    if isinstance(own, Mapping) and isinstance(other, Mapping):
        return all(_same(own.get(k), other.get(k)) for k in own.keys() | other.keys())
    if isinstance(own, list) and isinstance(other, list):
        return len(own) == len(other) and all(map(_same, own, other))
    if isinstance(own, float) and isinstance(other, float):
        return bool(np.float32(own) == np.float32(other))
    return own == other


def _check_same_vocabulary(folder: pathlib.Path, base: LoadedModel) -> None:
    if not (folder / "tokenizer.json").exists():
        return
    own, others = hf_folder.read_vocabulary(folder), base.tokenizer.vocabulary
    odd = sorted(own.items() ^ others.items())
    if odd:
        token = odd[0][0]
        raise BadInputError(
            f"expert {folder}: its tokeniser has {token!r} as {own.get(token)}, the "
            f"base model's as {others.get(token)} ({len(own)} and {len(others)} tokens)"
        )


def _check_named_base(settings_path: pathlib.Path, base: LoadedModel) -> None:
    """Refuses an adapter that says it belongs to another base model.

    Names are no proof: folders move, and the hub has mirrors. So it is refused only if
    both are hub names that differ, or both are folders whose weights differ.
    """
    named = read_object(settings_path).get("base_model_name_or_path")
    if not isinstance(named, str) or not named or named == base.source:
        return
    refusal = (
        f"{settings_path}: was trained on the base model {named!r}, but the base model "
        f"here is {base.source!r}"
    )
    if is_hub_name(named) and is_hub_name(base.source):
        one, other = (n.partition("@")[0].casefold() for n in (named, base.source))
        if one != other:
            raise BadInputError(
                f"{refusal}; if these are the same weights, say so there in "
                "base_model_name_or_path"
            )
        return
    here, there = (pathlib.Path(p).expanduser() for p in (base.source, named))
    if here.is_dir() and there.is_dir() and here.resolve() != there.resolve():
        odd = _first_difference(there, base.weights)
        if odd is not None:
            raise BadInputError(f"{refusal}, whose {odd} is another")


def _first_difference(
    folder: pathlib.Path, weights: Mapping[str, np.ndarray]
) -> str | None:
    """The first weight whose first rows differ by more than rounding."""
    try:
        stored = safetensors.open_folder(folder)
    except BadInputError:  # nothing to compare with
        return None
    for name in stored:
        if name not in weights:
            if name == HEAD or name.endswith("rotary_emb.inv_freq"):
                continue
            return name
        rows = stored.first_rows(name, _ROWS).astype(np.float32)
        mine = weights[name][:_ROWS].astype(np.float32)
        largest = np.abs(mine).max(initial=0.0)
        if mine.shape != rows.shape or np.abs(mine - rows).max() > _ROUNDING * largest:
            return name
    return None
