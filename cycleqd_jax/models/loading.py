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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import shipped
from cycleqd_jax.files.remote import is_url
from cycleqd_jax.models.base import ModelConfig, WeightsConfig
from cycleqd_jax.models.expert_folders import (
    check_expert_folder,
    open_segmentation_expert,
)
from cycleqd_jax.models.experts import Expert, weights_fingerprint
from cycleqd_jax.models.families import is_segmentation
from cycleqd_jax.models.formats import (
    gguf,
    gguf_tokenizer,
    hf_folder,
    safetensors,
)
from cycleqd_jax.models.joining import join, join_weights
from cycleqd_jax.models.locate import is_hub_name, locate
from cycleqd_jax.models.own_experts import Base, open_own
from cycleqd_jax.models.segmentation import SegmentationConfig
from cycleqd_jax.models.tokenizer import ChatTokenizer, padding_only
from cycleqd_jax.models.validated import cast, read_object
from cycleqd_jax.models.vocabulary import Tokens, Vocabulary


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
      own_config: as its files have it; differs from `config` where experts untied the
        model or added tokens to it.
      added: ids of tokens that experts added.
      dtype: the name of the weights' dtype, in which the model also computes.
    """

    config: ModelConfig | SegmentationConfig
    weights: Mapping[str, np.ndarray]
    tokenizer: ChatTokenizer | None
    source: str
    own_config: ModelConfig | SegmentationConfig | None = None
    added: frozenset[int] = frozenset()
    dtype: str = "float32"

    @property
    def is_own(self) -> bool:
        """True if it is as its files have it, and no expert changed it."""
        return not self.added and self.own_config in (None, self.config)

    @functools.cached_property
    def for_experts(self) -> Base:
        """The base as experts are fitted to it."""
        tokens = Tokens(self.tokenizer.hf, self.added)
        own = self.own_config or self.config
        return Base(self.config, own, self.weights, tokens, self.source)

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
    date: datetime.date | None = None,
    *,
    read: bool = True,
    experts: Sequence[str | os.PathLike[str]] = (),
    vocabulary: Vocabulary = "base",
) -> LoadedModel:
    """Loads a base model with its tokeniser.

    Experts decide what the models of a run have in common. The base is untied where one
    of them has a head of its own; it begins as a copy of the embedding. With the
    vocabulary "union" the tokens that experts added follow the base's own: each row is
    that of the expert that has the token, or the mean of theirs, and the same in every
    model of the run.

    Args:
      source: one of the forms in the module docstring; an existing path wins over a
        hub name.
      dtype: "float32", "bfloat16" or "float16"; weights are cast to it.
      date: for a chat template that prints the day; None takes the tokeniser's own.
      read: whether all weights are read once, so that damaged ones are refused now and
        not where they are used.
      experts: folders, URLs or hub names of the experts of a run.
      vocabulary: "base" or "union".

    Raises:
      BadInputError: if nothing is there, or it is damaged, no model of a supported
        family, or has a weight that is not finite or beyond the range of `dtype`; or as
        for `load_expert`.
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
    if date is not None:
        tokenizer = tokenizer.on(date)
    name = wanted.name
    model = LoadedModel(config, weights, tokenizer, source, config, dtype=name)
    if experts:
        own = [open_own(_checked_folder(path), config) for path in experts]
        joined = join(config, model.tokenizer, own, vocabulary)
        model = dataclasses.replace(
            model,
            config=joined.config,
            weights=join_weights(joined, config, weights, own),
            tokenizer=joined.tokenizer,
            added=frozenset(joined.ids.values()),
        )
    if read:
        model.fingerprint  # noqa: B018 - it is kept
    return model


def load_any_model(
    source: str | os.PathLike[str],
    dtype: Any = "float32",
    date: datetime.date | None = None,
    *,
    experts: Sequence[str | os.PathLike[str]] = (),
    vocabulary: Vocabulary = "base",
) -> LoadedModel:
    """As `load_model`, also for the folder of a segmentation model."""
    wanted, source = safetensors.check_dtype(dtype), os.fspath(source)
    path = locate(source)
    if not _is_segmentation_folder(path):
        return load_model(source, dtype, date, experts=experts, vocabulary=vocabulary)
    config, stored = hf_folder.open_segmentation_model(path)
    weights = stored.cast_to(wanted)
    model = LoadedModel(config, weights, None, source, dtype=wanted.name)
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
    folder = _checked_folder(path)
    if base.tokenizer is None:
        return open_segmentation_expert(folder, base.config, base.weights)
    return open_own(folder, base.for_experts.own).fitted(base.for_experts)


def _checked_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    folder = shipped.find(path)
    if is_hub_name(os.fspath(path)) or is_url(os.fspath(path)):
        folder = locate(os.fspath(path))
    check_expert_folder(folder)
    return folder


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
