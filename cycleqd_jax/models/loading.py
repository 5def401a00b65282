"""Loads base models and experts, whatever form they come in.

package:PACKAGE/FILE.gguf   a GGUF file inside an installed Python package
path/to/model.gguf          a GGUF file
path/to/folder              a Hugging Face folder, or a PEFT adapter (experts only)
gs://bucket/folder          the same in a bucket, `s3://` or on a server (fsspec)
org/name@revision           the same on the Hugging Face hub
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models import chat_template
from cycleqd_jax.models.base import ModelConfig, SegmentationConfig, WeightsConfig
from cycleqd_jax.models.experts import (
    Expert,
    FullExpert,
    LoraExpert,
    weights_fingerprint,
)
from cycleqd_jax.models.families import is_segmentation
from cycleqd_jax.models.formats import (
    gguf,
    gguf_tokenizer,
    hf_folder,
    peft,
    safetensors,
)
from cycleqd_jax.models.locate import is_hub_name, locate
from cycleqd_jax.models.same_base import (
    check_named_base,
    check_same_function,
    check_same_vocabulary,
)
from cycleqd_jax.models.tokenizer import ChatTokenizer, padding_only
from cycleqd_jax.models.validated import cast, read_object
from cycleqd_jax.remote import is_url


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A base model.

    Attributes:
      config: sizes and constants.
      weights: `{Hugging Face name: array}`, exactly `config.weight_shapes()`. Those of
        a folder are `StoredWeights`: every access reads the array from its file, so
        that a model of any size needs memory for one array. Those of a GGUF file are in
        memory.
      tokenizer: text to ids and back, with the chat template; None of a segmentation
        model.
      source: where it came from, as given.
    """

    config: ModelConfig | SegmentationConfig
    weights: Mapping[str, np.ndarray]
    tokenizer: ChatTokenizer | None
    source: str

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of all that decides its answers, as it was read.

        These are the weights' names, dtypes, shapes and values, the settings and the
        tokeniser.
        """
        parts = [weights_fingerprint(self.weights), self.config.to_hf()]
        if self.tokenizer is not None:
            parts.append(self.tokenizer.fingerprint)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load_model(
    source: str | os.PathLike[str],
    dtype: Any = "float32",
    date: datetime.date = chat_template.DATE,
    *,
    read: bool = True,
) -> LoadedModel:
    """Loads a base model with its tokeniser.

    Args:
      source: one of the forms in the module docstring; an existing path wins over a
        hub name.
      dtype: "float32", "bfloat16" or "float16"; weights are cast to it.
      date: for a chat template that prints the day.
      read: whether all weights are read once, so that damaged ones are refused now and
        not where they are used.

    Raises:
      BadInputError: if nothing is there, or it is damaged, no model of a supported
        family, or has a weight that is not finite or beyond the range of `dtype`.
    """
    wanted, source = safetensors.check_dtype(dtype), os.fspath(source)
    path = locate(source)
    if path.is_file():
        config, stored, tokenizer = _open_gguf(path)
    else:
        config, stored = hf_folder.open_model(path)
        tokenizer = hf_folder.read_tokenizer(path)
    _check_embedding(tokenizer, config, path)
    if isinstance(stored, safetensors.StoredWeights):
        weights = stored.cast_to(wanted)
    else:
        weights = {
            name: cast(stored[name], wanted, f"{path}: tensor {name!r}")
            for name in config.weight_shapes()
        }
    model = LoadedModel(config, weights, tokenizer.on(date), source)
    if read:
        model.fingerprint  # noqa: B018 - it is kept
    return model


def load_any_model(
    source: str | os.PathLike[str],
    dtype: Any = "float32",
    date: datetime.date = chat_template.DATE,
) -> LoadedModel:
    """As `load_model`, also for the folder of a segmentation model."""
    wanted, source = safetensors.check_dtype(dtype), os.fspath(source)
    path = locate(source)
    if not _is_segmentation_folder(path):
        return load_model(source, dtype, date)
    config, stored = hf_folder.open_segmentation_model(path)
    model = LoadedModel(config, stored.cast_to(wanted), None, source)
    model.fingerprint  # noqa: B018 - damaged weights are refused now
    return model


def _is_segmentation_folder(path: pathlib.Path) -> bool:
    config = path / "config.json"
    return config.is_file() and is_segmentation(read_object(config).get("model_type"))


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
      path: a PEFT LoRA folder, the Hugging Face folder of a full fine-tune, or the URL
        or hub name `org/name@revision` of one of them.
      base: the model it was fine-tuned from.

    Returns:
      `LoraExpert` with float32 factors, or `FullExpert` whose weights are read when
      they are asked for.

    Raises:
      BadInputError: if it is missing, damaged, of another kind (DoRA, ...), or not a
        fine-tune of this base; names what differs, with both values.
    """
    folder = pathlib.Path(os.path.expanduser(path))
    if is_hub_name(os.fspath(path)) or is_url(os.fspath(path)):
        folder = locate(os.fspath(path))
    if base.tokenizer is None:
        return open_segmentation_expert(folder, base.config, base.weights)
    expert = open_expert(folder, base.config, base.weights)
    if isinstance(expert, LoraExpert):
        check_named_base(folder / peft.CONFIG, base.source, base.config, base.weights)
    check_same_vocabulary(folder, base.tokenizer)
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
    _check_expert_folder(folder)
    if (folder / peft.CONFIG).exists():
        return LoraExpert(*peft.read_adapter(folder, config, base_weights))
    own, weights = hf_folder.open_model(folder)
    check_same_function(folder, own, config)
    return FullExpert(weights)


def open_any_expert(folder: pathlib.Path, config: WeightsConfig) -> Expert:
    """As `open_expert`, for a base model of any kind."""
    if is_segmentation(config.model_type):
        return open_segmentation_expert(folder, config)
    return open_expert(folder, config)


def open_segmentation_expert(
    folder: pathlib.Path,
    config: SegmentationConfig,
    base_weights: Mapping[str, np.ndarray] | None = None,
) -> Expert:
    """As `open_expert`, for a segmentation model."""
    _check_expert_folder(folder)
    if (folder / peft.CONFIG).exists():
        return LoraExpert(*peft.read_adapter(folder, config, base_weights))
    own, weights = hf_folder.open_segmentation_model(folder)
    of_base = dict(_flat(config.to_hf()))
    for name, value in _flat(own.to_hf()):
        if value != of_base.get(name):
            raise BadInputError(
                f"expert {folder}: its {name} is {value}, but the base's is "
                f"{of_base.get(name)}; experts must be fine-tunes of one base"
            )
    return FullExpert(weights)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a nested `config.json` by dotted name."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_expert_folder(folder: pathlib.Path) -> None:
    if not os.path.isdir(folder):  # False where a name is too long
        found = "is a file" if os.path.exists(folder) else "no such folder"
        raise BadInputError(
            f"expert {os.fspath(folder)!r}: {found}; expected the folder of a PEFT "
            "adapter or a full model"
        )
    if not any((folder / name).exists() for name in (peft.CONFIG, "config.json")):
        missing = f"has neither {peft.CONFIG} nor config.json"
        raise BadInputError(f"expert {folder}: {missing}{_inside(folder)}")


def open_config(path: pathlib.Path) -> WeightsConfig:
    """The config of a base model's file or folder, of any kind; weights are not read.

    Raises:
      BadInputError: as for `load_model`, except for the tokeniser.
    """
    if path.is_file():
        return gguf.read_gguf_config(_check_gguf(path))
    if _is_segmentation_folder(path):
        return hf_folder.open_segmentation_model(path)[0]
    return hf_folder.open_model(path)[0]


def _inside(folder: pathlib.Path) -> str:
    """Says which sub-folders hold a model or adapter, as training leaves them."""
    names = (peft.CONFIG, "config.json")
    found = {path.parent.name for n in names for path in folder.glob(f"*/{n}")}
    return f"; pass one of its folders: {', '.join(sorted(found))}" if found else ""


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
    tokens = tokenizer.vocabulary.items()
    beyond = {token for token, i in tokens if i >= config.vocab_size}
    if beyond - {padding_only(tokenizer.hf)}:
        raise BadInputError(
            f"{path}: its tokeniser has {tokenizer.vocab_size} tokens, but its "
            f"embedding has {config.vocab_size} rows; use the tokeniser that the model "
            "was trained with"
        )
