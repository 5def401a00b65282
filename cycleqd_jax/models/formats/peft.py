"""LoRA adapters in PEFT's folder format; `peft_export` writes them.

    W' = W + scale * B A        B `[out, r]`, A `[r, in]`

Source: LoRA (arXiv 2106.09685); rsLoRA's scale alpha / sqrt(r) (arXiv 2312.03732);
the folder format is that of huggingface/peft.
"""

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import remote
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
      copies: weights of the base that it brings unchanged, as they are stored, by name;
        PEFT keeps embedding and head where the base's vocabulary was changed.
    """

    factors: dict[str, LoraFactor]
    replacements: dict[str, np.ndarray]
    copies: dict[str, np.ndarray]


def read_adapter(folder: str | os.PathLike[str], config: WeightsConfig) -> Adapter:
    """Reads a PEFT LoRA folder.

    Embedding and head may have other rows than the base's. Where the base ties them,
    there may be changes of either.

    Args:
      folder: holds `adapter_config.json` and `adapter_model.safetensors`.
      config: the base model's.

    Returns:
      Factors and replaced weights, in float32, and copies.

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
    prefix, root = _prefixes(stored, of_base)
    # Up to the end, names are those of the model that PEFT adapted.
    shapes = {
        name.removeprefix(root): shape
        for name, shape in of_base.items()
        if name.startswith(root)
    }
    places = dict(shapes)  # where the adapter may put something
    embedding = EMBEDDING.removeprefix(root)
    if embedding in shapes and not root:
        places[HEAD] = shapes[embedding]  # also where the base ties it
    tables = (embedding, HEAD)  # may have more or fewer rows
    halves: dict[str, dict[str, np.ndarray]] = {}
    replacements: dict[str, np.ndarray] = {}
    copies: dict[str, np.ndarray] = {}
    for key, value in stored.items():
        name, half, array = _split_key(key, value, prefix, path)
        if half is not None:
            halves.setdefault(name, {})[half] = cast(
                array, np.float32, f"{path}: tensor {key!r}"
            )
            continue
        # Where the base's vocabulary was changed, PEFT writes a saved module three
        # times: as such, under its wrapper's name, and as it was in the base.
        if ".modules_to_save." in name:
            continue
        before, name = ".original_module." in name, _without(name, "original_module")
        _check_replacement(name, array, places, tables, path)
        base_name = name if name in shapes else embedding  # of a tied head
        modules = {place.rpartition(".")[0] for place in (name, base_name)}
        if not before and any(map(settings.saves, modules)):
            replacements[name] = cast(array, np.float32, f"{path}: tensor {key!r}")
        else:
            copies[name] = array
    factors = {}
    for name, pair in sorted(halves.items()):
        shape = places.get(name)
        if shape and name in tables and "b" in pair:
            shape = (len(pair["b"]), *shape[1:])
        factors[name] = _factor(name, pair, settings, shape, path)
    for name in shapes:
        if settings.saves(name.rpartition(".")[0]) and name not in replacements:
            raise BadInputError(
                f"{path}: lacks {name!r}, which {CONFIG} lists in modules_to_save"
            )
    _check_targets(factors, settings, shapes, path)
    return Adapter(
        *(
            {root + name: change for name, change in changes.items()}
            for changes in (factors, replacements, copies)
        )
    )


def check_copies(
    adapter: Adapter,
    base_weights: Mapping[str, np.ndarray],
    shared: Callable[[int], np.ndarray] | None,
    path: pathlib.Path,
) -> None:
    """Refuses copies that are not the base's up to the rounding of either dtype.

    Args:
      adapter: of any vocabulary.
      base_weights: the base model's.
      shared: number of rows of a copied embedding or head -> which of the base's rows
        are in it, bool `[base_rows]`; None if all copies have the base's rows.
      path: of the adapter, for messages.

    Raises:
      BadInputError: names the weight.
    """
    for name, array in adapter.copies.items():
        base = base_weights[name if name in base_weights else EMBEDDING]
        if shared is not None and name in (EMBEDDING, HEAD):
            rows = np.flatnonzero(shared(len(array)))
            array, base = array[rows], base[rows]
        if not is_rounded_copy(array, base):
            raise BadInputError(
                f"{path}: brings a changed {name!r} that {CONFIG} does not list in "
                "modules_to_save"
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
    return _without(key.removeprefix(prefix), "base_layer"), None, value


def _without(name: str, part: str) -> str:
    return name.replace(f".{part}.", ".")


def _check_replacement(
    name: str,
    array: np.ndarray,
    places: Mapping[str, tuple[int, ...]],
    tables: tuple[str, ...],
    path: Any,
) -> None:
    if name not in places:
        raise BadInputError(
            f"{path}: weight {name!r} {array.shape} maps to nothing in the base model"
        )
    first = 1 if name in tables else 0
    if array.ndim != len(places[name]) or array.shape[first:] != places[name][first:]:
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


def is_same_change(one: Any, other: Any) -> bool:
    """True for two equal changes: factors with their scale, or whole arrays."""
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(map(np.array_equal, one, other))


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
