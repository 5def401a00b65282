"""LoRA adapters in PEFT's folder format, in and out.

    W' = W + scale * B A        B `[out, r]`, A `[r, in]`

Source: LoRA (arXiv 2106.09685); rsLoRA's scale alpha / sqrt(r) (arXiv 2312.03732);
the folder format is that of huggingface/peft.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.formats.peft_config import AdapterConfig
from cycleqd_jax.models.formats.peft_tied import EMBEDDING as _EMBEDDING
from cycleqd_jax.models.formats.peft_tied import drop_tied_head
from cycleqd_jax.models.llama.config import LlamaConfig

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Suffix in an adapter file -> (factor, whether it is stored transposed). PEFT's
# embedding adds (B A)^T, so there A^T is the left factor.
_SUFFIXES = {
    ".lora_A.weight": ("a", False),
    ".lora_B.weight": ("b", False),
    ".lora_embedding_A": ("b", True),
    ".lora_embedding_B": ("a", True),
}


class LoraFactor(NamedTuple):
    """What an adapter adds to one matrix: `scale * b @ a`.

    Attributes:
      b: float32 `[out, r]`.
      a: float32 `[r, in]`.
      scale: dimensionless.
    """

    b: np.ndarray
    a: np.ndarray
    scale: float


class Adapter(NamedTuple):
    """An adapter's content.

    Attributes:
      factors: by the Hugging Face name of the weight they change.
      replacements: whole weights that the adapter brings (`modules_to_save`), as
        float32, by name.
    """

    factors: dict[str, LoraFactor]
    replacements: dict[str, np.ndarray]


def read_adapter(
    folder: str | os.PathLike[str],
    config: LlamaConfig,
    base_weights: Mapping[str, np.ndarray] | None = None,
) -> Adapter:
    """Reads a PEFT LoRA folder.

    Args:
      folder: holds `adapter_config.json` and `adapter_model.safetensors`.
      config: the base model's.
      base_weights: if given, copies of base weights in the adapter are compared with
        them.

    Returns:
      Factors and replaced weights, in float32.

    Raises:
      BadInputError: if the adapter is of a kind that is not a sum `W + scale B A`, does
        not fit the base, lacks a factor its config promises or has one too many; names
        the file, the module and both values.
    """
    folder = pathlib.Path(folder)
    settings = AdapterConfig.read(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.exists():
        raise BadInputError(f"{folder}: lacks {WEIGHTS}; only safetensors are read")
    halves: dict[str, dict[str, np.ndarray]] = {}
    rest: dict[str, np.ndarray] = {}
    for key, value in safetensors.read_safetensors(path).items():
        module, factor, array = _split_key(key, value, path)
        if factor is None:
            rest[module] = array
        else:
            halves.setdefault(module, {})[factor] = array
    if config.tie_word_embeddings:
        drop_tied_head(halves, rest, settings, path)
    factors = {
        f"{module}.weight": _factor(module, pair, settings, config, path)
        for module, pair in sorted(halves.items())
    }
    _check_targets(halves, settings, config, path)
    replaced = _replacements(rest, settings, config, base_weights, path)
    return Adapter(factors, replaced)


def save_lora(
    folder: str | os.PathLike[str],
    factors: Mapping[str, LoraFactor],
    *,
    base_name: str,
    card: str,
    dtype: Any = "float32",
) -> None:
    """Writes a PEFT LoRA folder: config, safetensors weights and a model card.

    The same arguments give the same bytes.

    Args:
      folder: created if needed; its adapter files are replaced.
      factors: by weight name, as in `Adapter`; at least one.
      base_name: the base model's path or hub name `org/name@revision`, for PEFT to
        find it.
      card: the body of `README.md`, Markdown; its header is written here.
      dtype: what A and B are stored as; scales are exact.

    Raises:
      BadInputError: if there are no factors, one has mismatched shapes or a name that
        is not a matrix, or the dtype is not floating.
      OSError: if a file cannot be written.
    """
    stored = safetensors.check_dtype(dtype)
    folder = pathlib.Path(folder)
    tensors: dict[str, np.ndarray] = {}
    for name, factor in factors.items():
        b, a = np.asarray(factor.b), np.asarray(factor.a)
        if not name.endswith(".weight") or b.ndim != 2 or a.ndim != 2:
            raise BadInputError(f"LoRA factor {name!r}: expected matrices B and A")
        if b.shape[1] != a.shape[0]:
            raise BadInputError(
                f"LoRA factor {name!r}: B {b.shape} and A {a.shape} differ in rank"
            )
        module = name.removesuffix(".weight")
        if module == _EMBEDDING:
            pair = {".lora_embedding_A": b.T, ".lora_embedding_B": a.T}
        else:
            pair = {".lora_A.weight": a, ".lora_B.weight": b}
        for suffix, array in pair.items():
            tensors[f"{_PREFIX}{module}{suffix}"] = array.astype(stored)
    settings = AdapterConfig.describing(
        {
            name.removesuffix(".weight"): (np.asarray(f.a).shape[0], float(f.scale))
            for name, f in factors.items()
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.write_safetensors(folder / WEIGHTS, tensors)
    data = settings.to_json(base_name)
    text = json.dumps(data, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    named = json.dumps(data["base_model_name_or_path"])
    header = (
        f"---\nbase_model: {named}\nlibrary_name: peft\n"
        "pipeline_tag: text-generation\ntags:\n- lora\n- cycleqd\n---\n\n"
    )
    (folder / "README.md").write_text(header + card.strip() + "\n", encoding="utf-8")


def _split_key(
    key: str, value: np.ndarray, path: pathlib.Path
) -> tuple[str, str | None, np.ndarray]:
    """Module, factor ("a", "b" or None) and array of one tensor of an adapter file."""
    if not key.startswith(_PREFIX):
        raise BadInputError(
            f"{path}: tensor {key!r} does not begin with {_PREFIX!r}; is this a PEFT "
            "adapter?"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise BadInputError(f"{path}: tensor {key!r} is {value.dtype}, not floating")
    value = value.astype(np.float32, copy=False)
    for suffix, (factor, transposed) in _SUFFIXES.items():
        if key.endswith(suffix):
            if value.ndim != 2:
                raise BadInputError(
                    f"{path}: tensor {key!r} should be a matrix, but has shape "
                    f"{value.shape}"
                )
            module = key.removeprefix(_PREFIX).removesuffix(suffix)
            return module, factor, value.T if transposed else value
    if "lora_" in key:
        raise BadInputError(
            f"{path}: tensor {key!r} is of a kind that is not supported; only lora_A "
            "and lora_B are"
        )
    name = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
    return name, None, value


def _factor(
    module: str,
    pair: Mapping[str, np.ndarray],
    settings: AdapterConfig,
    config: LlamaConfig,
    path: pathlib.Path,
) -> LoraFactor:
    shape = config.weight_shapes().get(f"{module}.weight")
    if shape is None or len(shape) != 2:
        raise BadInputError(
            f"{path}: adapts {module!r}, which is not a linear layer of the base model "
            f"({config.num_hidden_layers} layers"
            f"{', tied head' if config.tie_word_embeddings else ''})"
        )
    if pair.keys() != {"a", "b"}:
        raise BadInputError(f"{path}: has only one of the two factors of {module!r}")
    b, a = pair["b"], pair["a"]
    rank = settings.rank(module)
    for name, array, expected in (
        ("B", b, (shape[0], rank)),
        ("A", a, (rank, shape[1])),
    ):
        if array.shape != expected:
            raise BadInputError(
                f"{path}: {module!r} should have {name} of shape {expected} for the "
                f"base's {shape} at rank {rank}, but has {array.shape}; was it trained "
                "on another base model?"
            )
    return LoraFactor(
        np.ascontiguousarray(b), np.ascontiguousarray(a), settings.scale(module)
    )


def _check_targets(
    found: Mapping[str, Any],
    settings: AdapterConfig,
    config: LlamaConfig,
    path: pathlib.Path,
) -> None:
    modules = [
        name.removesuffix(".weight")
        for name, shape in config.weight_shapes().items()
        if len(shape) == 2
    ]
    for module in modules:
        promised = settings.targets(module)
        if promised and module not in found:
            raise BadInputError(
                f"{path}: lacks the factors of {module!r}, which {CONFIG} targets"
            )
        if module in found and not promised:
            raise BadInputError(
                f"{path}: has factors for {module!r}, which {CONFIG} does not target"
            )
    if not found:
        raise BadInputError(f"{path}: holds no LoRA factors")


def _replacements(
    rest: Mapping[str, np.ndarray],
    settings: AdapterConfig,
    config: LlamaConfig,
    base_weights: Mapping[str, np.ndarray] | None,
    path: pathlib.Path,
) -> dict[str, np.ndarray]:
    shapes = config.weight_shapes()
    kept: dict[str, np.ndarray] = {}
    for name, value in rest.items():
        if name not in shapes:
            raise BadInputError(
                f"{path}: weight {name!r} {value.shape} maps to nothing in the base "
                "model"
            )
        if value.shape != shapes[name]:
            raise BadInputError(
                f"{path}: weight {name!r} should have the base's shape {shapes[name]}, "
                f"but has {value.shape}"
            )
        if settings.saves(name.rpartition(".")[0]):
            kept[name] = value
        elif base_weights is None or not np.array_equal(
            value, np.asarray(base_weights[name], np.float32)
        ):
            raise BadInputError(
                f"{path}: brings a changed {name!r} that {CONFIG} does not list in "
                "modules_to_save"
            )
    return kept
