"""The families of models that load: the only place that chooses one.

A new family is a folder with its config and program, and an entry in `FAMILIES`, or in
`SEGMENTATION_FAMILIES` if its models are no language models.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.attention import Kind
from cycleqd_jax.models.base import CausalLM, ModelConfig, WeightsConfig
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.program import LlamaProgram
from cycleqd_jax.models.llama.relatives import MistralConfig, Qwen2Config, Qwen3Config
from cycleqd_jax.models.llama.rope import make_rotary
from cycleqd_jax.models.sam.config import SamConfig
from cycleqd_jax.models.sam.program import SamProgram
from cycleqd_jax.models.segmentation import SegmentationConfig, SegmentationModel
from cycleqd_jax.models.validated import read_object


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Models that share one architecture.

    Attributes:
      model_type: the family's name in a `config.json`.
      config_from_hf: makes a config of a parsed `config.json` and its path, which
        error messages begin with.
      program: makes the functions of a config, dtype and kind of attention.
      positions: makes a dataclass of what a config computes from positions; configs
        that spell one computation differently have equal ones. None if `to_hf` spells
        each computation in one way.
      gguf_architecture: the family's name in a GGUF file; None if there are none. A
        name of several families is read as the first of them.
      gguf_interleaved: linear layers whose rows llama.cpp interleaves per head.
    """

    model_type: str
    config_from_hf: Callable[[Mapping[str, Any], str], ModelConfig]
    program: Callable[..., CausalLM]
    positions: Callable[[ModelConfig], Any] | None = None
    gguf_architecture: str | None = None
    gguf_interleaved: tuple[str, ...] = ()


FAMILIES = (
    Family(
        model_type="llama",
        config_from_hf=LlamaConfig.from_hf,
        program=LlamaProgram,
        positions=make_rotary,
        gguf_architecture="llama",
        gguf_interleaved=("q_proj", "k_proj"),
    ),
    Family(  # in a GGUF file it is a llama, and is read as one
        model_type="mistral",
        config_from_hf=MistralConfig.from_hf,
        program=LlamaProgram,
        positions=make_rotary,
        gguf_architecture="llama",
        gguf_interleaved=("q_proj", "k_proj"),
    ),
    Family(
        model_type="qwen2",
        config_from_hf=Qwen2Config.from_hf,
        program=LlamaProgram,
        positions=make_rotary,
        gguf_architecture="qwen2",
    ),
    Family(
        model_type="qwen3",
        config_from_hf=Qwen3Config.from_hf,
        program=LlamaProgram,
        positions=make_rotary,
        gguf_architecture="qwen3",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationFamily:
    """Segmentation models that share one architecture; attributes as of `Family`."""

    model_type: str
    config_from_hf: Callable[[Mapping[str, Any], str], SegmentationConfig]
    program: Callable[..., SegmentationModel]


SEGMENTATION_FAMILIES = (
    SegmentationFamily(
        model_type="sam", config_from_hf=SamConfig.from_hf, program=SamProgram
    ),
)


def family_named(model_type: object, source: object) -> Family:
    """The family with a `model_type`.

    Args:
      model_type: as in `config.json`.
      source: where it was read; the error message begins with it.

    Raises:
      BadInputError: no such family; lists those that there are.
    """
    return _named(FAMILIES, model_type, source)


def config_from_hf(data: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
    """Makes a config of a parsed `config.json`; errors as for `read_config`."""
    family = family_named(data.get("model_type"), source)
    return _complete(family, family.config_from_hf(data, source), ModelConfig)


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """Reads the `config.json` of a Hugging Face folder.

    Raises:
      BadInputError: the file is missing or damaged, or no family here computes such a
        model; names the setting and its value.
    """
    path = os.path.join(folder, "config.json")
    return config_from_hf(read_object(path), path)


def with_vocabulary(config: ModelConfig, rows: int, tied: bool) -> ModelConfig:
    """The same model with another number of rows, and a head that is tied or not."""
    return config.model_copy(update={"vocab_size": rows, "tie_word_embeddings": tied})


def make_program(
    config: ModelConfig, dtype: jnp.dtype | str = "float32", *, attention: Kind = "xla"
) -> CausalLM:
    """A model as functions.

    Args:
      config: its sizes.
      dtype: of the computation and the cache.
      attention: the implementation of attention, from `choose_attention`.
    """
    family = family_named(config.model_type, "config")
    program = family.program(config, dtype, attention=attention)
    return _complete(family, program, CausalLM)


def segmentation_config_from_hf(
    data: Mapping[str, Any], source: str = "config.json"
) -> SegmentationConfig:
    """As `config_from_hf`, for a segmentation model."""
    family = _named(SEGMENTATION_FAMILIES, data.get("model_type"), source)
    return family.config_from_hf(data, source)


def read_segmentation_config(folder: str | os.PathLike[str]) -> SegmentationConfig:
    """As `read_config`, for a segmentation model."""
    path = os.path.join(folder, "config.json")
    return segmentation_config_from_hf(read_object(path), path)


def is_segmentation(model_type: object) -> bool:
    """True if models with this `model_type` predict masks."""
    return any(family.model_type == model_type for family in SEGMENTATION_FAMILIES)


def any_config_from_hf(
    data: Mapping[str, Any], source: str = "config.json"
) -> WeightsConfig:
    """As `config_from_hf`, for a model of any kind."""
    model_type = data.get("model_type")
    known = SEGMENTATION_FAMILIES if is_segmentation(model_type) else FAMILIES
    return _named(known, model_type, source).config_from_hf(data, source)


def read_any_config(folder: str | os.PathLike[str]) -> WeightsConfig:
    """As `read_config`, for a model of any kind."""
    path = os.path.join(folder, "config.json")
    return any_config_from_hf(read_object(path), path)


def make_segmentation_program(
    config: SegmentationConfig, dtype: jnp.dtype | str = "float32"
) -> SegmentationModel:
    """A segmentation model as functions; arguments as for `make_program`."""
    family = _named(SEGMENTATION_FAMILIES, config.model_type, "config")
    return family.program(config, dtype)


def _complete(family: Family, made: Any, protocol: type) -> Any:
    """Refuses what lacks a member that is asked for later, in the middle of a run."""
    parts = [part for part in protocol.__mro__ if getattr(part, "_is_protocol", False)]
    members = {n: None for p in parts for n in (*inspect.get_annotations(p), *vars(p))}
    lacking = [n for n in members if n[0] != "_" and not hasattr(made, n)]
    if lacking:
        raise BadInputError(
            f"family {family.model_type}: {type(made).__name__} must have all members "
            f"of {protocol.__module__}.{protocol.__name__}, but lacks "
            f"{', '.join(lacking)}; add them."
        )
    return made


def _named(families: Sequence[Any], model_type: object, source: object) -> Any:
    for family in families:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in families)
    raise BadInputError(
        f"{source}: model_type {model_type!r} is not supported; supported: {known}"
    )
