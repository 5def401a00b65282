"""Llama models in GGUF files: settings, dequantised weights and tokeniser.

GGUF is llama.cpp's single-file format. Its converter interleaves the two halves of
every head of q and k; that is undone here, so weights come out with Hugging Face's
names and layout, `[out, in]`.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats.gguf_file import open_gguf
from cycleqd_jax.models.llama.config import LlamaConfig

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_ROPE_FREQUENCIES = "rope_freqs.weight"


class GGUFModel(NamedTuple):
    """What a GGUF file holds.

    Attributes:
      config: sizes and constants.
      weights: float32 arrays by Hugging Face's names.
      metadata: the file's fields as plain Python values.
    """

    config: LlamaConfig
    weights: dict[str, np.ndarray]
    metadata: dict[str, Any]


def read_gguf(path: str | os.PathLike[str]) -> GGUFModel:
    """Reads and dequantises a Llama model.

    Args:
      path: the file.

    Returns:
      Config, float32 weights that match `config.weight_shapes()`, and metadata.

    Raises:
      BadInputError: if the file is missing, damaged, of another architecture, or holds
        a tensor or setting that this model does not have; names it.
    """
    metadata, tensors = open_gguf(path)
    names = {name: _hf_name(name, path) for name in tensors}
    config = _config(metadata, tensors, path)
    weights = {
        hf_name: _restore_rows(hf_name, _dequantise(tensors[name], path), config)
        for name, hf_name in names.items()
        if hf_name is not None
    }
    return GGUFModel(config, weights, metadata)


def read_config(path: str | os.PathLike[str]) -> LlamaConfig:
    """Reads only a model's sizes and constants.

    Args:
      path: the file.

    Returns:
      The config of `read_gguf`.

    Raises:
      BadInputError: as `read_gguf`.
    """
    metadata, tensors = open_gguf(path)
    return _config(metadata, tensors, path)


def _hf_name(name: str, path: str | os.PathLike[str]) -> str | None:
    if name == _ROPE_FREQUENCIES:
        return None
    if name in _TOP:
        return _TOP[name]
    match = _BLOCK_NAME.fullmatch(name)
    if match is None or match[2] not in _BLOCK:
        raise BadInputError(
            f"{path}: tensor {name!r} maps to no weight of a Llama model"
        )
    return f"model.layers.{int(match[1])}.{_BLOCK[match[2]]}.{match[3]}"


def _config(
    metadata: Mapping[str, Any], tensors: Mapping[str, Any], path: Any
) -> LlamaConfig:
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise BadInputError(
            f"{path}: general.architecture must be 'llama', but is {architecture!r}"
        )
    for key in ("expert_count", "attention.sliding_window"):
        if metadata.get(f"llama.{key}"):
            raise BadInputError(
                f"{path}: llama.{key} = {metadata[f'llama.{key}']} is not supported"
            )
    for name in ("token_embd.weight", "output_norm.weight"):
        if name not in tensors:
            raise BadInputError(f"{path}: lacks tensor {name!r}")

    def get(key: str, default: Any = None) -> Any:
        value = metadata.get(f"llama.{key}", default)
        if value is None:
            raise BadInputError(f"{path}: lacks llama.{key}")
        return value

    heads, width = get("attention.head_count"), get("embedding_length")
    if not isinstance(heads, int) or heads < 1:
        raise BadInputError(
            f"{path}: llama.attention.head_count must be one positive number for all "
            f"layers, but is {heads!r}"
        )
    head_dim = get("attention.key_length", width // heads)
    for key in ("rope.dimension_count", "attention.value_length"):
        if get(key, head_dim) != head_dim:
            raise BadInputError(
                f"{path}: llama.{key} must equal the head size {head_dim}, but is "
                f"{get(key)}"
            )
    return LlamaConfig.from_hf(
        {
            "model_type": "llama",
            "vocab_size": int(tensors["token_embd.weight"].shape[1]),
            "hidden_size": width,
            "intermediate_size": get("feed_forward_length"),
            "num_hidden_layers": get("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
            "max_position_embeddings": get("context_length"),
            "rope_theta": get("rope.freq_base", 10000.0),
            "rope_scaling": _rope_scaling(metadata, tensors, head_dim, path),
            "tie_word_embeddings": "output.weight" not in tensors,
            "attention_bias": "blk.0.attn_q.bias" in tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        },
        source=os.fspath(path),
    )


def _rope_scaling(metadata, tensors, head_dim: int, path) -> dict[str, Any] | None:
    kind = metadata.get("llama.rope.scaling.type", "none")
    factor = metadata.get("llama.rope.scaling.factor", 1.0)
    context = metadata.get("llama.rope.scaling.original_context_length")
    if _ROPE_FREQUENCIES in tensors:
        divisors = _dequantise(tensors[_ROPE_FREQUENCIES], path)
        theta = metadata.get("llama.rope.freq_base", 10000.0)
        return _llama3_scaling(divisors, theta, head_dim, path)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and context:
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": context,
        }
    raise BadInputError(
        f"{path}: llama.rope.scaling.type {kind!r} is not supported; known are none, "
        "linear and yarn with its original_context_length"
    )


def _llama3_scaling(
    divisors: np.ndarray, theta: float, head_dim: int, path
) -> dict[str, Any] | None:
    """Finds the Llama 3.1 scaling that a file stores only as divisors of frequencies.

    llama.cpp's converter writes the outcome, not the parameters. Every released Llama
    since 3.1 uses the same ones but for the factor, which is the largest divisor; they
    are accepted only if they give the file's numbers.
    """
    if np.allclose(divisors, 1.0):
        return None
    low, high, context = 1.0, 4.0, 8192
    factor = float(divisors.max())
    wavelength = (
        2 * np.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    )
    ramp = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
    expected = 1.0 / ((1.0 - ramp) / factor + ramp)
    if divisors.shape != expected.shape or not np.allclose(
        divisors, expected, rtol=1e-3
    ):
        raise BadInputError(
            f"{path}: {_ROPE_FREQUENCIES} is not a Llama 3.1 scaling (factor {factor:g}"
            f", 1 to 4, {context} tokens); use the model's Hugging Face folder instead"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def _dequantise(tensor, path: str | os.PathLike[str]) -> np.ndarray:
    from gguf.quants import dequantize

    try:
        with np.errstate(invalid="ignore", over="ignore"):
            values = dequantize(tensor.data, tensor.tensor_type)
    except (NotImplementedError, ValueError) as err:
        raise BadInputError(
            f"{path}: tensor {tensor.name!r} has type {tensor.tensor_type.name}, which "
            f"cannot be dequantised: {err}"
        ) from err
    return values.astype(np.float32, copy=False)


def _restore_rows(name: str, weight: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """Undoes the interleaving of q's and k's rows; also makes an own, writable copy."""
    half = config.head_dim // 2
    if "q_proj" in name or "k_proj" in name:
        if weight.shape[0] % config.head_dim == 0:  # else the shape check will say so
            rows = weight.reshape(-1, half, 2, *weight.shape[1:])
            return rows.swapaxes(1, 2).reshape(weight.shape)
    return weight if weight.flags.owndata else weight.copy()
