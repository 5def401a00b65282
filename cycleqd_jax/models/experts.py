"""Experts: fine-tuned versions of one base model, as LoRA factors or whole weights."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats import peft, safetensors
from cycleqd_jax.models.formats.adapter_base import check_named_base
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.llama.config import LlamaConfig

# Settings in which a fine-tune may differ from its base without being another function
# of its weights.
_FREE = ("max_position_embeddings",)


@dataclasses.dataclass(frozen=True)
class LoraExpert:
    """An expert that changes matrices by low-rank sums.

    Attributes:
      factors: by weight name: `W + scale * b @ a`.
      replacements: float32 weights it replaces whole, by name; usually none.
    """

    factors: Mapping[str, LoraFactor]
    replacements: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of factors, scales and replaced weights."""
        arrays = dict(self.replacements)
        for name, factor in self.factors.items():
            arrays[f"{name} b"] = factor.b
            arrays[f"{name} a"] = factor.a
            arrays[f"{name} scale"] = np.asarray(factor.scale, np.float64)
        return weights_fingerprint(arrays)


@dataclasses.dataclass(frozen=True)
class FullExpert:
    """An expert given as all its weights.

    Attributes:
      weights: by name, with exactly the base's names and shapes, in their stored
        dtypes.
    """

    weights: Mapping[str, np.ndarray]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of the weights."""
        return weights_fingerprint(self.weights)


Expert = LoraExpert | FullExpert


def read_expert(
    path: str | os.PathLike[str],
    config: LlamaConfig,
    base_weights: Mapping[str, np.ndarray] | None = None,
    vocabulary: Mapping[str, int] | None = None,
    base_source: str | None = None,
) -> Expert:
    """Reads a PEFT LoRA folder or a full Hugging Face folder.

    Args:
      path: the folder; one with `adapter_config.json` is an adapter.
      config: the base model's.
      base_weights: the base's, to recognise copies of them inside an adapter.
      vocabulary: the base's tokens and ids; those of a tokeniser in the folder must
        be the same.
      base_source: the base's path or hub name; an adapter must not name another.

    Returns:
      The expert.

    Raises:
      BadInputError: if it is missing, damaged, or not a fine-tune of this base; names
        what differs, with both values.
    """
    folder = pathlib.Path(path).expanduser()
    if not folder.is_dir():
        raise BadInputError(
            f"expert {os.fspath(path)!r}: no such folder; expected a PEFT adapter or a "
            "full model"
        )
    if (folder / peft.CONFIG).exists():
        expert = LoraExpert(*peft.read_adapter(folder, config, base_weights))
        if base_weights is not None and base_source is not None:
            check_named_base(folder / peft.CONFIG, base_source, base_weights)
        _check_same_vocabulary(folder, vocabulary)
        return expert
    if not (folder / "config.json").exists():
        raise BadInputError(
            f"expert {folder}: has neither {peft.CONFIG} nor config.json"
        )
    own, weights = safetensors.read_folder(folder)
    _check_same_model(own, config, folder)
    _check_same_vocabulary(folder, vocabulary)
    return FullExpert(weights)


def weights_fingerprint(weights: Mapping[str, np.ndarray]) -> str:
    """Sha256 (hex) over names, dtypes, shapes and bytes, in the order of names.

    Args:
      weights: flat arrays.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _check_same_model(own: LlamaConfig, base: LlamaConfig, folder: Any) -> None:
    for field in dataclasses.fields(LlamaConfig):
        mine, theirs = getattr(own, field.name), getattr(base, field.name)
        if field.name in _FREE and not _matters(base):
            continue
        if _same(mine, theirs):
            continue
        raise BadInputError(
            f"expert {folder}: its {field.name} is {mine!r}, but the base model's is "
            f"{theirs!r}; experts must be fine-tunes of one base"
        )


def _matters(config: LlamaConfig) -> bool:
    """Whether the longest context decides the rotary frequencies."""
    scaling = config.rope_scaling or {}
    return scaling.get("rope_type") == "dynamic"


def _same(mine: Any, theirs: Any) -> bool:
    """Equality, in float32 for numbers: GGUF stores them so, config.json in decimal."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        keys = mine.keys() | theirs.keys()
        return all(_same(mine.get(key), theirs.get(key)) for key in keys)
    if isinstance(mine, list | tuple) and isinstance(theirs, list | tuple):
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))
    if isinstance(mine, float) and isinstance(theirs, int | float):
        return bool(np.float32(mine) == np.float32(theirs))
    return mine == theirs


def _check_same_vocabulary(
    folder: pathlib.Path, base: Mapping[str, int] | None
) -> None:
    if base is None or not (folder / "tokenizer.json").exists():
        return
    from cycleqd_jax.models.formats.hf_tokenizer import read_vocabulary

    own = read_vocabulary(folder)
    odd = sorted(own.items() ^ base.items())
    if odd:
        token = odd[0][0]
        raise BadInputError(
            f"expert {folder}: its tokeniser has {token!r} as {own.get(token)}, the "
            f"base model's as {base.get(token)} ({len(own)} and {len(base)} tokens)"
        )
