"""Models in GGUF files, llama.cpp's format: sizes and dequantised weights.

llama.cpp's converter interleaves the two halves of every head in some layers; that is
undone here, so that weights have Hugging Face's names and layout, `[out, in]`.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.families import FAMILIES, Family
from cycleqd_jax.models.formats.gguf_file import open_gguf
from cycleqd_jax.models.formats.gguf_rope import FREQUENCIES, rope_scaling
from cycleqd_jax.models.validated import check_finite

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
_PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
# Fields that are read elsewhere here, or change no number of a model without experts.
_KNOWN = re.compile(
    r"vocab_size|pooling_type|attention\.layer_norm_epsilon|rope\.scale_linear"
    r"|rope\.scaling\.(type|factor|original_context_length|finetuned|yarn_.*)"
    r"|expert_(?!count).*"
)
# The values with which a field changes nothing. Any other field of the architecture
# changes nothing if it is zero or empty: llama.cpp takes that for "not set".
_NEUTRAL = {
    "attention.causal": (True,),
    "embedding_scale": (1, 0),
    "logit_scale": (1, 0),
    "residual_scale": (1, 0),
    "rope.scale": (1, 0),
    "rope.scaling.alpha": (1, 0),
    "rope.scaling.attn_factor": (1,),
    "hidden_activation": ("silu",),
    # Both name the order of rows that llama.cpp's converter writes.
    "tensor_data_layout": ("reference", "Meta AI original pth"),
}
_NOTHING = (0, "", [])
_QUANTISATION = 2  # the version whose blocks the gguf package reads


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


class GGUFLayout(NamedTuple):
    """The weights of a GGUF file.

    Attributes:
      architecture: the family's name in the file.
      names: Hugging Face's names of all weights by their names in the file, in order.
      shapes: by Hugging Face's names.
      interleaved: linear layers whose rows are interleaved per head.
      head_dim: size of a head.
    """

    architecture: str
    names: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    interleaved: tuple[str, ...]
    head_dim: int


def read_gguf(path: str | os.PathLike[str]) -> GGUFModel:
    """Reads and dequantises a model.

    Raises:
      BadInputError: if the file is missing, damaged, of another architecture, or holds
        a tensor or setting that its model does not have; names it.
    """
    metadata, tensors = open_gguf(path)
    family, config = _family_and_config(metadata, tensors, path)
    names = _hf_names(family, config)
    weights = {}
    for name, tensor in tensors.items():
        if name == FREQUENCIES:
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
    metadata, tensors = open_gguf(path)
    return _family_and_config(metadata, tensors, path)[1]


def read_gguf_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads only a file's fields, among them the vocabulary; errors as `read_gguf`."""
    return open_gguf(path)[0]


def gguf_layout(path: str | os.PathLike[str]) -> GGUFLayout:
    """The layout of a file's weights, in its order; errors as for `read_gguf`."""
    metadata, tensors = open_gguf(path)
    layout = layout_of(*_family_and_config(metadata, tensors, path))
    names = {n: layout.names[n] for n in tensors if n in layout.names}
    return layout._replace(names=names)


def layout_of(family: Family, config: ModelConfig) -> GGUFLayout:
    """The layout of a model's weights, in the model's order."""
    return GGUFLayout(
        family.gguf_architecture,
        _hf_names(family, config),
        {name: tuple(shape) for name, shape in config.weight_shapes().items()},
        family.gguf_interleaved,
        config.head_dim,
    )


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
    family = _family(metadata, tensors, path)
    prefix = f"{family.gguf_architecture}."

    if "token_embd.weight" not in tensors:
        raise BadInputError(f"{path}: lacks tensor 'token_embd.weight'")
    own = {
        n.removeprefix(prefix): v for n, v in metadata.items() if n.startswith(prefix)
    }
    for key in _NEEDED:
        if key not in own:
            raise BadInputError(f"{path}: lacks {prefix}{key}")
    place = f"{path}: {prefix}"
    own |= {key: _of_all_layers(own, key, place) for key in _PER_LAYER if key in own}
    settings = {name: own.get(key) for key, name in (_NEEDED | _OPTIONAL).items()}
    settings |= {
        "model_type": family.model_type,
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }
    config = family.config_from_hf(settings, os.fspath(path))
    _check_fields(own, config.head_dim, place)
    divisors = tensors.get(FREQUENCIES)
    if divisors is not None:
        divisors = _dequantise(divisors, path)
    scaling = rope_scaling(own, divisors, config.head_dim, place)
    if scaling is None:
        return family, config
    return family, family.config_from_hf(
        settings | {"rope_scaling": scaling}, os.fspath(path)
    )


def _family(
    metadata: Mapping[str, Any], tensors: Mapping[str, Any], path: Any
) -> Family:
    """The family of a file that holds a model, and of a format that is known."""
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise BadInputError(
            f"{path}: general.type is {kind!r}; expected 'model', the file of a whole "
            "language model"
        )
    version = metadata.get("general.quantization_version", _QUANTISATION)
    plain = ("F32", "F16", "BF16")
    quantised = any(t.tensor_type.name not in plain for t in tensors.values())
    if quantised and version != _QUANTISATION:
        raise BadInputError(
            f"{path}: general.quantization_version is {version}; expected "
            f"{_QUANTISATION}; quantise the model anew with llama.cpp"
        )
    architecture = metadata.get("general.architecture")
    known = {f.gguf_architecture: f for f in reversed(FAMILIES) if f.gguf_architecture}
    if not isinstance(architecture, str) or architecture not in known:
        raise BadInputError(
            f"{path}: general.architecture {architecture!r} is not supported; "
            f"supported: {', '.join(known)}"
        )
    return known[architecture]


def _of_all_layers(fields: Mapping[str, Any], key: str, place: str) -> Any:
    """A field's value; of one value per layer, the one that all layers share."""
    value, layers = fields[key], fields["block_count"]
    if not isinstance(value, list):
        return value
    if not value or len(value) != layers or any(v != value[0] for v in value):
        raise BadInputError(
            f"{place}{key} = {show(value)} is not supported; expected one number for "
            f"all {layers} layers"
        )
    return value[0]


def _check_fields(fields: Mapping[str, Any], head_dim: int, place: str) -> None:
    """Refuses fields that ask for arithmetic that this model does not do."""
    neutral = _NEUTRAL | {
        "rope.dimension_count": (head_dim,),
        "attention.value_length": (head_dim,),
        "attention.scale": (float(np.float32(head_dim**-0.5)), 0),
    }
    for key, value in fields.items():
        if key in _NEEDED or key in _OPTIONAL or _KNOWN.fullmatch(key):
            continue
        allowed = neutral.get(key, _NOTHING)
        if value not in allowed:
            raise BadInputError(
                f"{place}{key} = {show(value)} is not supported; this model computes "
                f"only {show(allowed[0])}"
            )


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
    check_finite(values, f"{path}: tensor {tensor.name!r}")
    return values.astype(np.float32, copy=False)


def _uninterleave(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """The rows of every head, `[heads * head_dim, ...]`, in Hugging Face's order."""
    if weight.shape[0] % head_dim:  # the check of shapes will refuse it
        return weight
    rows = weight.reshape(-1, head_dim // 2, 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)
