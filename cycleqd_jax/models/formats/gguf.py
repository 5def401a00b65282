"""Models in GGUF files, llama.cpp's format: sizes and dequantised weights.

llama.cpp's converter interleaves the two halves of every head in some layers; that is
undone here, so that weights have Hugging Face's names and layout, `[out, in]`.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.families import FAMILIES, Family

_ROPE_FREQUENCIES = "rope_freqs.weight"
# Fields without their prefix, which is the architecture -> settings of a config.json.
_NEEDED = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
}
_OPTIONAL = {
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
}


class GGUFModel(NamedTuple):
    """The content of a GGUF file.

    Attributes:
      config: sizes and constants.
      weights: float32 arrays by Hugging Face's names.
      metadata: the file's fields as plain Python values.
    """

    config: ModelConfig
    weights: dict[str, np.ndarray]
    metadata: dict[str, Any]


def read_gguf(path: str | os.PathLike[str]) -> GGUFModel:
    """Reads and dequantises a model.

    Raises:
      BadInputError: if the file is missing, damaged, of another architecture, or holds
        a tensor or setting that its model does not have; names it.
    """
    metadata, tensors = _open(path)
    family, config = _family_and_config(metadata, tensors, path)
    names = _hf_names(family, config)
    weights = {}
    for name, tensor in tensors.items():
        if name == _ROPE_FREQUENCIES:
            continue
        if name not in names:
            raise BadInputError(
                f"{path}: tensor {name!r} maps to no weight of a {family.model_type} "
                f"model with {config.num_hidden_layers} layers"
            )
        weight = _dequantise(tensor, path)
        if names[name].split(".")[-2] in family.gguf_interleaved:
            weight = _uninterleave(weight, config.head_dim)
        # Unquantised tensors are read-only views of the file.
        weights[names[name]] = weight if weight.flags.owndata else weight.copy()
    return GGUFModel(config, weights, metadata)


def read_gguf_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Reads only a model's sizes and constants; errors as for `read_gguf`."""
    metadata, tensors = _open(path)
    return _family_and_config(metadata, tensors, path)[1]


def read_gguf_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads only a file's fields, among them the vocabulary; errors as `read_gguf`."""
    return _open(path)[0]


def _hf_names(family: Family, config: ModelConfig) -> dict[str, str]:
    """Hugging Face's names of all weights by their names in a GGUF file."""
    import gguf

    architectures = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(
        architectures[family.gguf_architecture], config.num_hidden_layers
    )
    return {
        table.get_name(name, try_suffixes=(".weight", ".bias")): name
        for name in config.weight_shapes()
    }


def _family_and_config(
    metadata: Mapping[str, Any], tensors: Mapping[str, Any], path: Any
) -> tuple[Family, ModelConfig]:
    architecture = metadata.get("general.architecture")
    known = {family.gguf_architecture: family for family in reversed(FAMILIES)}
    if architecture not in known:
        raise BadInputError(
            f"{path}: general.architecture {architecture!r} is not supported; "
            f"supported: {', '.join(known)}"
        )
    family = known[architecture]

    def get(key: str) -> Any:
        return metadata.get(f"{architecture}.{key}")

    for key in ("expert_count", "attention.sliding_window"):
        if get(key):
            raise BadInputError(
                f"{path}: {architecture}.{key} = {get(key)} is not supported"
            )
    if "token_embd.weight" not in tensors:
        raise BadInputError(f"{path}: lacks tensor 'token_embd.weight'")
    for key in _NEEDED:
        if get(key) is None:
            raise BadInputError(f"{path}: lacks {architecture}.{key}")
    settings = {name: get(key) for key, name in (_NEEDED | _OPTIONAL).items()}
    settings |= {
        "model_type": family.model_type,
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }
    config = family.config_from_hf(settings, os.fspath(path))
    for key in ("rope.dimension_count", "attention.value_length"):
        if get(key) not in (None, config.head_dim):
            raise BadInputError(
                f"{path}: {architecture}.{key} must equal the head size "
                f"{config.head_dim}, but is {get(key)}"
            )
    if _ROPE_FREQUENCIES in tensors:
        divisors = _dequantise(tensors[_ROPE_FREQUENCIES], path)
        theta = settings["rope_theta"] or 10000.0
        scaling = _llama3_scaling(divisors, theta, config.head_dim, path)
    else:
        scaling = _named_scaling(get, path)
    if scaling is None:
        return family, config
    return family, family.config_from_hf(
        settings | {"rope_scaling": scaling}, os.fspath(path)
    )


def _named_scaling(get: Callable[[str], Any], path: Any) -> dict[str, Any] | None:
    """Rope scaling, as in a config.json, that a file's fields ask for."""
    kind, factor = get("rope.scaling.type"), get("rope.scaling.factor")
    context = get("rope.scaling.original_context_length")
    if kind in (None, "none") or (kind == "linear" and factor in (None, 1.0)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and context:
        return {
            "rope_type": "yarn",
            "factor": 1.0 if factor is None else factor,
            "original_max_position_embeddings": context,
        }
    raise BadInputError(
        f"{path}: rope.scaling.type {kind!r} is not supported; supported: none, "
        "linear, and yarn with its original_context_length"
    )


def _llama3_scaling(
    divisors: np.ndarray, theta: float, head_dim: int, path: Any
) -> dict[str, Any] | None:
    """Finds the Llama 3.1 scaling that a file stores only as divisors of frequencies.

    llama.cpp's converter writes the result, not the parameters. Every Llama since 3.1
    has the same parameters except the factor, which is the largest divisor; they are
    accepted only if they give the file's numbers.
    """
    if np.allclose(divisors, 1.0):
        return None
    low, high, context = 1.0, 4.0, 8192
    factor = float(divisors.max())
    channels = np.arange(0, head_dim, 2, dtype=np.float64)
    wavelength = 2 * np.pi * theta ** (channels / head_dim)
    ramp = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
    expected = 1.0 / ((1.0 - ramp) / factor + ramp)
    same_shape = divisors.shape == expected.shape
    if not (same_shape and np.allclose(divisors, expected, rtol=1e-3)):
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


def _dequantise(tensor: Any, path: Any) -> np.ndarray:
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


def _uninterleave(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """The rows of every head, `[heads * head_dim, ...]`, in Hugging Face's order."""
    if weight.shape[0] % head_dim:  # the check of shapes will refuse it
        return weight
    rows = weight.reshape(-1, head_dim // 2, 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def _open(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields as plain Python values, and `gguf.ReaderTensor` by name, not yet read."""
    try:
        reader = _reader_class()(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        return metadata, {tensor.name: tensor for tensor in reader.tensors}
    except FileNotFoundError as err:
        raise BadInputError(f"{path}: no such file") from err
    except OSError as err:
        raise BadInputError(f"{path}: cannot be read: {err}") from err
    except (ValueError, KeyError, IndexError, OverflowError, TypeError) as err:
        raise BadInputError(
            f"{path}: is not a whole GGUF file ({err}); download it again"
        ) from err


def _reader_class():
    import gguf

    class Reader(gguf.GGUFReader):
        """Reads arrays at once: the library takes seconds for a vocabulary."""

        def _get_field_parts(self, orig_offs, raw_type):
            if raw_type != gguf.GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind = gguf.GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
            count = int(self._get(orig_offs + 4, np.uint64)[0])
            start = offset = orig_offs + 12
            types = [gguf.GGUFValueType.ARRAY, kind]
            if (dtype := self.gguf_scalar_to_np.get(kind)) is not None:
                values = self._get(start, dtype, count)
                if len(values) < count:
                    raise ValueError(f"an array at offset {orig_offs} is cut off")
                return 12 + values.nbytes, [values], [0], types
            if kind != gguf.GGUFValueType.STRING:
                raise ValueError(f"an array of {kind!r} at offset {orig_offs}")
            little = self.endianess == gguf.GGUFEndian.LITTLE
            content, parts = memoryview(self.data), []
            for _ in range(count):
                length = content[offset : offset + 8]
                size = int.from_bytes(length, "little" if little else "big")
                start, offset = offset + 8, offset + 8 + size
                if offset > len(content):
                    raise ValueError(f"an array at offset {orig_offs} is cut off")
                parts.append(content[start:offset])
            return offset - orig_offs, parts, list(range(count)), types

    return Reader
