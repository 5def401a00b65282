"""Finds and loads a base model, whatever form it comes in.

package:PACKAGE/FILE.gguf   a GGUF file inside an installed Python package
path/to/model.gguf          a GGUF file
path/to/folder              a Hugging Face folder
org/name@revision           a model on the Hugging Face hub
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.experts import (
    Expert,
    read_expert,
    weights_fingerprint,
)
from cycleqd_jax.models.formats import (
    gguf,
    gguf_tokenizer,
    hf_tokenizer,
    safetensors,
)
from cycleqd_jax.models.llama import cache
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.locate import is_hub_name, locate
from cycleqd_jax.models.tokenizer import ChatTokenizer


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A base model in memory.

    Attributes:
      config: sizes and constants.
      weights: `{Hugging Face name: array}`, exactly `config.weight_shapes()`.
      tokenizer: text to ids and back, with the chat template.
      source: where it came from, as given.
    """

    config: LlamaConfig
    weights: Mapping[str, np.ndarray]
    tokenizer: ChatTokenizer
    source: str

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of the weights as loaded: names, dtypes, shapes and values."""
        return weights_fingerprint(self.weights)


def load_model(
    spec: str | os.PathLike[str],
    dtype: Any = "float32",
    *,
    use_cache: bool = True,
) -> LoadedModel:
    """Loads a Llama model with its tokeniser.

    Args:
      spec: one of the forms in the module docstring; an existing path wins over a hub
        name.
      dtype: "float32", "bfloat16" or "float16"; weights are cast to it.
      use_cache: whether a GGUF file's dequantised weights are kept in (and taken from)
        the user's cache folder; see `cache.converted_folder`.

    Returns:
      The model.

    Raises:
      BadInputError: if nothing is there, or it is damaged or not such a model.
    """
    wanted = safetensors.check_dtype(dtype)
    source = os.fspath(spec)
    path = locate(source)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise BadInputError(
                f"{path}: expected a .gguf file or a folder; pass the folder that "
                "holds config.json"
            )
        return _load_gguf(path, wanted, source, use_cache)
    config, weights = safetensors.read_folder(path, wanted)
    return LoadedModel(config, weights, hf_tokenizer.read_tokenizer(path), source)


def load_expert(path: str | os.PathLike[str], base: LoadedModel) -> Expert:
    """Loads an expert of a base model.

    Args:
      path: a PEFT LoRA folder, the Hugging Face folder of a full fine-tune, or the
        hub name `org/name@revision` of one of them.
      base: the model it was fine-tuned from.

    Returns:
      `LoraExpert` with float32 factors, or `FullExpert` with weights in their stored
      dtypes.

    Raises:
      BadInputError: if it is damaged, of another kind (DoRA, ...), or does not fit the
        base; names what differs, with both values.
    """
    if is_hub_name(os.fspath(path)):
        path = locate(os.fspath(path))
    return read_expert(
        path, base.config, base.weights, base.tokenizer.vocabulary, base.source
    )


def _load_gguf(
    path: pathlib.Path, dtype: np.dtype, source: str, use_cache: bool
) -> LoadedModel:
    folder = cache.converted_folder(path) if use_cache else None
    if folder is not None and folder.exists():
        try:
            config, weights = safetensors.read_folder(folder, dtype)
            tokenizer = hf_tokenizer.read_tokenizer(folder)
            return LoadedModel(config, weights, tokenizer, source)
        except BadInputError:  # a damaged copy costs a conversion, not the run
            cache.discard(folder)
    model = gguf.read_gguf(path)
    weights = safetensors.check_weights(
        model.weights, model.config, np.dtype(np.float32), source=str(path)
    )
    tokenizer = gguf_tokenizer.tokenizer_from_metadata(model.metadata, str(path))
    if tokenizer.vocab_size > model.config.vocab_size:
        raise BadInputError(
            f"{path}: has {tokenizer.vocab_size} tokens, but an embedding of "
            f"{model.config.vocab_size} rows"
        )
    if folder is not None:
        cache.store(folder, model.config, weights, tokenizer)
    weights = {name: w.astype(dtype, copy=False) for name, w in weights.items()}
    return LoadedModel(model.config, weights, tokenizer, source)
