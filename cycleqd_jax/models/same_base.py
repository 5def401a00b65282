"""Refuses experts that were not fine-tuned from this base model."""

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import HEAD, ModelConfig
from cycleqd_jax.models.families import family_named, read_config
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.formats.safetensors import first_rows
from cycleqd_jax.models.locate import is_hub_name
from cycleqd_jax.models.validated import read_object

# What positions become depends on these together; each may be spelt in several ways.
_ROPE = ("rope_theta", "rope_scaling", "max_position_embeddings")
# Experts may have rows of their own, and a head of their own.
_FREE = ("vocab_size", "tie_word_embeddings")
# GGUF files store settings in float32.
_SETTINGS = 1e-6
# To recognise a base model, this many rows of each weight are compared. Another model
# differs in all of them; the same model in another dtype differs by its rounding.
_ROWS = 16
_ROUNDING = 0.01  # relative to the largest value
# Endings of hub names that say how a model is stored, not which one it is.
_STORED_AS = re.compile(
    r"(-(unsloth|bnb|[48]bit|int[48]|gptq|awq|fp8|dynamic|block|hf|bf16|fp16))+$"
)


def check_same_function(
    folder: pathlib.Path, expert: ModelConfig, base: ModelConfig
) -> None:
    """Refuses a full model whose settings make another function than its base's.

    Its vocabulary may be another, and its head may be tied where the base's is not, or
    the reverse.

    Raises:
      BadInputError: names the setting and both values.
    """
    odd = _difference(expert, base)
    if odd is not None:
        raise BadInputError(
            f"expert {folder}: its {odd}; experts must be fine-tunes of one base"
        )


def check_named_base(
    settings_path: pathlib.Path,
    source: str,
    config: ModelConfig,
    weights: Mapping[str, np.ndarray],
) -> None:
    """Refuses an adapter that says it belongs to another base model.

    Names are no proof: folders move, and the hub has mirrors and quantised copies. So
    it is refused only if both are hub names of different models, or both are folders
    whose settings or weights differ.

    Args:
      settings_path: the adapter's `adapter_config.json`.
      source: where the base model came from, as given.
      config: the base model's.
      weights: the base model's, by name.

    Raises:
      BadInputError: names both.
    """
    named = read_object(settings_path).get("base_model_name_or_path")
    if not isinstance(named, str) or not named or named == source:
        return
    refusal = (
        f"{settings_path}: was trained on the base model {named!r}, but the base model "
        f"here is {source!r}"
    )
    if is_hub_name(named) and is_hub_name(source):
        if _model_name(named) != _model_name(source):
            raise BadInputError(
                f"{refusal}; if these are the same weights, say so there in "
                "base_model_name_or_path"
            )
        return
    here, there = map(os.path.expanduser, (source, named))
    if not (os.path.isdir(here) and os.path.isdir(there)):
        return
    if not os.path.samefile(here, there):
        odd = _folder_difference(pathlib.Path(there), config, weights)
        if odd is not None:
            raise BadInputError(f"{refusal}; {odd}")


def _difference(own: ModelConfig, base: ModelConfig) -> str | None:
    """The first setting in which two models' functions differ, with both values."""
    mine, others = own.to_hf(), base.to_hf()
    names = sorted((mine.keys() | others.keys()) - set(_FREE))
    if family_named(own.model_type, "config").positions is not None:
        names = [name for name in names if name not in ("rope_parameters", *_ROPE)]
        if not _same(_positions(own), _positions(base)):
            names += _ROPE
    for name in names:
        if not _same(mine.get(name), others.get(name)):
            return (
                f"{name} is {mine.get(name)!r}, but the base model's is "
                f"{others.get(name)!r}"
            )
    return None


def _positions(config: ModelConfig) -> dict[str, Any]:
    family = family_named(config.model_type, "config")
    return dataclasses.asdict(family.positions(config))


def _same(own: Any, other: Any) -> bool:
    if isinstance(own, Mapping) and isinstance(other, Mapping):
        return all(_same(own.get(k), other.get(k)) for k in own.keys() | other.keys())
    if isinstance(own, list | tuple) and isinstance(other, list | tuple):
        return len(own) == len(other) and all(map(_same, own, other))
    if isinstance(own, float) and isinstance(other, float):
        return math.isclose(own, other, rel_tol=_SETTINGS)
    return own == other


def _model_name(hub_name: str) -> str:
    """A hub name without owner and revision, and without how the model is stored."""
    name = hub_name.partition("@")[0].rpartition("/")[2].casefold()
    return _STORED_AS.sub("", name.removeprefix("meta-"))


def _folder_difference(
    folder: pathlib.Path, config: ModelConfig, weights: Mapping[str, np.ndarray]
) -> str | None:
    """Names a difference of a folder's model from the base; None without one."""
    try:
        stored = safetensors.open_folder(folder)
    except BadInputError:  # nothing to compare with
        return None
    try:
        odd = _difference(read_config(folder), config)
    except BadInputError:  # quantised, for one: its other weights tell
        odd = None
    if odd is not None:
        return f"its {odd}"
    for name in stored:
        if name not in weights:
            if name == HEAD or not name.endswith((".weight", ".bias")):
                continue
            return f"it has {name}, which the base model here lacks"
        if stored.outline(name)[1] not in safetensors.FLOATING:
            continue  # quantised
        rows = stored.first_rows(name, _ROWS).astype(np.float32)
        mine = first_rows(weights, name, _ROWS).astype(np.float32)
        largest = np.abs(mine).max(initial=0.0)
        if mine.shape != rows.shape or np.abs(mine - rows).max() > _ROUNDING * largest:
            return f"its {name} is another"
    return None
