"""LoRA adapters in PEFT's folder format; `peft_export` writes them.

    W' = W + scale * B A        B `[out, r]`, A `[r, in]`

Source: LoRA (arXiv 2106.09685); rsLoRA's scale alpha / sqrt(r) (arXiv 2312.03732);
the folder format is that of huggingface/peft.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax import remote
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import EMBEDDING, HEAD, WeightsConfig
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.formats.conversion import how_to_convert
from cycleqd_jax.models.formats.peft_config import AdapterConfig, is_table
from cycleqd_jax.models.rounding import is_rounded_copy
from cycleqd_jax.models.validated import cast

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
_ROOT = "model."  # begins all names of a causal model but the head's
# Suffix in an adapter file -> (factor, whether it is stored transposed). For an
# embedding PEFT adds (B A)^T, so A^T is the left factor.
_SUFFIXES = {
    ".lora_A.weight": ("a", False),
    ".lora_B.weight": ("b", False),
    ".lora_embedding_A": ("b", True),
    ".lora_embedding_B": ("a", True),
}


class LoraFactor(NamedTuple):
    """The change that an adapter makes to one matrix: `scale * b @ a`.

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
    config: WeightsConfig,
    base_weights: Mapping[str, np.ndarray] | None = None,
) -> Adapter:
    """Reads a PEFT LoRA folder.

    Where the base ties its head to the embedding, an adapter must change both alike
    (PEFT's `ensure_weight_tying`), which is one change of the one tied weight.

    Args:
      folder: holds `adapter_config.json` and `adapter_model.safetensors`.
      config: the base model's.
      base_weights: if given, copies of base weights in the adapter must equal them up
        to the rounding of either dtype.

    Returns:
      Factors and replaced weights, in float32.

    Raises:
      BadInputError: if the adapter is of a kind that is not a sum `W + scale B A`, does
        not fit the base, lacks a factor its config promises or has one too many, or has
        a value that is not finite; names the file, the module and both values.
    """
    folder = pathlib.Path(folder)
    settings = AdapterConfig.read(folder / CONFIG)
    path = remote.find(folder, WEIGHTS)
    if path is None:
        raise BadInputError(
            f"{folder}: lacks {WEIGHTS}; only safetensors are read"
            f"{how_to_convert(folder)}"
        )
    stored = safetensors.open_file(path)
    of_base = config.weight_shapes()
    tied = EMBEDDING in of_base and HEAD not in of_base
    prefix, root = _prefixes(stored, of_base)
    # Up to the end, names are those of the model that PEFT adapted.
    shapes = {
        name.removeprefix(root): shape
        for name, shape in of_base.items()
        if name.startswith(root)
    }
    places = dict(shapes)  # where the adapter may put something
    embedding = EMBEDDING.removeprefix(root)
    if tied and not root:
        places[HEAD] = shapes[embedding]
    halves: dict[str, dict[str, np.ndarray]] = {}
    replacements: dict[str, np.ndarray] = {}
    for key, value in stored.items():
        name, half, array = _split_key(key, value, prefix, path)
        if half is not None:
            halves.setdefault(name, {})[half] = cast(
                array, np.float32, f"{path}: tensor {key!r}"
            )
            continue
        _check_replacement(name, array, places, path)
        base_name = name if name in shapes else embedding  # of a tied head
        modules = {place.rpartition(".")[0] for place in (name, base_name)}
        if any(map(settings.saves, modules)):
            replacements[name] = cast(array, np.float32, f"{path}: tensor {key!r}")
        elif base_weights is not None:
            if not is_rounded_copy(array, base_weights[root + base_name]):
                raise BadInputError(
                    f"{path}: brings a changed {name!r} that {CONFIG} does not list in "
                    "modules_to_save"
                )
    factors = {
        name: _factor(name, pair, settings, places.get(name), path)
        for name, pair in sorted(halves.items())
    }
    for name in shapes:
        if settings.saves(name.rpartition(".")[0]) and name not in replacements:
            raise BadInputError(
                f"{path}: lacks {name!r}, which {CONFIG} lists in modules_to_save"
            )
    if tied:
        _drop_tied_head(factors, "adapts", embedding, path)
        _drop_tied_head(replacements, "replaces", embedding, path)
    _check_targets(factors, settings, shapes, path)
    return Adapter(
        {root + name: factor for name, factor in factors.items()},
        {root + name: array for name, array in replacements.items()},
    )


def _prefixes(keys: Iterable[str], of_base: Iterable[str]) -> tuple[str, str]:
    """The prefix of the keys, and the prefix that their names of modules lack.

    PEFT writes PREFIX; transformers leaves it out with `save_peft_format=False`. The
    names of a causal model without a head (`LlamaModel`) lack _ROOT.
    """
    keys = list(keys)
    prefix = PREFIX if any(key.startswith(PREFIX) for key in keys) else ""
    names = [key.removeprefix(prefix) for key in keys]
    head = HEAD.rpartition(".")[0]
    whole = any(name.startswith((_ROOT, f"{head}.")) for name in names)
    whole = whole or not any(name.startswith(_ROOT) for name in of_base)
    return prefix, "" if whole else _ROOT


def _split_key(
    key: str, value: np.ndarray, prefix: str, path: pathlib.Path
) -> tuple[str, str | None, np.ndarray]:
    """Weight name, half ("a", "b"; None for a whole weight) and array of a tensor."""
    if not key.startswith(prefix):
        raise BadInputError(
            f"{path}: tensor {key!r} does not begin with {prefix!r} as others do; is "
            "this a PEFT adapter?"
        )
    for suffix, (half, transposed) in _SUFFIXES.items():
        if key.endswith(suffix):
            if value.ndim != 2:
                raise BadInputError(
                    f"{path}: tensor {key!r} should be a matrix, but has shape "
                    f"{value.shape}"
                )
            module = key.removeprefix(prefix).removesuffix(suffix)
            array = np.ascontiguousarray(value.T if transposed else value)
            return f"{module}.weight", half, array
    if "lora_" in key:
        raise BadInputError(
            f"{path}: tensor {key!r} is of a kind that is not supported; only lora_A "
            "and lora_B are"
        )
    return key.removeprefix(prefix).replace(".base_layer.", "."), None, value


def _check_replacement(
    name: str, array: np.ndarray, places: Mapping[str, tuple[int, ...]], path: Any
) -> None:
    if name not in places:
        raise BadInputError(
            f"{path}: weight {name!r} {array.shape} maps to nothing in the base model"
        )
    if array.shape != places[name]:
        raise BadInputError(
            f"{path}: weight {name!r} should have the base's shape {places[name]}, but "
            f"has {array.shape}"
        )


def _factor(
    name: str,
    pair: Mapping[str, np.ndarray],
    settings: AdapterConfig,
    shape: tuple[int, ...] | None,
    path: Any,
) -> LoraFactor:
    module = name.removesuffix(".weight")
    if shape is None or len(shape) != 2 or is_table(module):
        raise BadInputError(
            f"{path}: adapts {module!r}, which is not a linear layer of the base model"
        )
    if pair.keys() != {"a", "b"}:
        raise BadInputError(f"{path}: has only one of the two factors of {module!r}")
    rank = settings.rank(module)
    for half, expected in (("b", (shape[0], rank)), ("a", (rank, shape[1]))):
        if pair[half].shape != expected:
            raise BadInputError(
                f"{path}: {module!r} should have {half.upper()} of shape {expected} "
                f"for the base's {shape} at rank {rank}, but has {pair[half].shape}; "
                "was it trained on another base model?"
            )
    return LoraFactor(pair["b"], pair["a"], settings.scale(module))


def _drop_tied_head(changes: dict[str, Any], verb: str, name: str, path: Any) -> None:
    """Takes the head's change out if the embedding has the same; refuses others."""
    embedding, head = changes.get(name), changes.pop(HEAD, None)
    if embedding is None and head is None:
        return
    remedy = "train with PEFT's ensure_weight_tying, or give the full model untied"
    names = [name.removesuffix(".weight") for name in (name, HEAD)]
    if embedding is None or head is None:
        alone = names[0] if head is None else names[1]
        raise BadInputError(
            f"{path}: {verb} {alone!r} alone, but the base ties the embedding to the "
            f"head, so no model with tied embeddings is this one; {remedy}"
        )
    if not all(map(np.array_equal, embedding, head)):  # factors and scale, or rows
        raise BadInputError(
            f"{path}: {verb} {names[0]!r} and {names[1]!r} differently, but the base "
            f"ties them; {remedy}"
        )


def _check_targets(
    factors: Mapping[str, Any],
    settings: AdapterConfig,
    shapes: Mapping[str, tuple[int, ...]],
    path: Any,
) -> None:
    for name, shape in shapes.items():
        if len(shape) != 2 or not name.endswith(".weight"):
            continue
        module = name.removesuffix(".weight")
        promised = settings.targets(module)
        if promised and name not in factors:
            raise BadInputError(
                f"{path}: lacks the factors of {module!r}, which {CONFIG} targets"
            )
        if name in factors and not promised:
            raise BadInputError(
                f"{path}: has factors for {module!r}, which {CONFIG} does not target"
            )
    if not factors:
        raise BadInputError(f"{path}: holds no LoRA factors")
