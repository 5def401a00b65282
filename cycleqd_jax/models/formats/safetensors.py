"""Weights in Hugging Face folders: safetensors, one file or several with an index."""

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.llama.config import LlamaConfig

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = ("float32", "bfloat16", "float16")

# Buffers that old checkpoints carry and that follow from the config.
_HARMLESS = re.compile(r".*\brotary_emb\.inv_freq|rope_freqs\.weight")
_TIED_HEAD = "lm_head.weight"


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parses a JSON file that holds an object.

    Args:
      path: the file.

    Returns:
      The object.

    Raises:
      BadInputError: naming the file, if it is missing or not a JSON object.
    """
    try:
        data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise BadInputError(f"{path}: no such file") from err
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as err:
        raise BadInputError(f"{path}: is not readable JSON: {err}") from err
    if not isinstance(data, dict):
        raise BadInputError(f"{path}: expected a JSON object, got {data!r:.60}")
    return data


def check_dtype(dtype: Any) -> np.dtype:
    """The NumPy dtype of a floating dtype's name.

    Args:
      dtype: "float32", "bfloat16" or "float16", or such a dtype.

    Returns:
      The dtype.

    Raises:
      BadInputError: for anything else.
    """
    try:
        found = jnp.dtype(dtype)
    except TypeError as err:
        raise BadInputError(
            f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}"
        ) from err
    if found.name not in DTYPES:
        raise BadInputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return np.dtype(found)


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads every tensor of one safetensors file.

    Args:
      path: the file.

    Returns:
      Arrays in their stored dtypes, by name.

    Raises:
      BadInputError: naming the file, if it is missing, truncated or damaged.
    """
    import safetensors

    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as err:
        raise BadInputError(f"{path}: no such file") from err
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as err:
        raise BadInputError(
            f"{path}: is not a whole safetensors file ({err}); copy or download it "
            "again"
        ) from err


def read_weights(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the weights of a folder, following its index if it has one.

    Args:
      folder: holds `model.safetensors`, or `model.safetensors.index.json` and the
        files it names.

    Returns:
      Arrays in their stored dtypes, by name.

    Raises:
      BadInputError: naming the file, if one is missing or damaged or lacks a tensor
        that the index promises.
    """
    folder = pathlib.Path(folder)
    if (folder / WEIGHTS).exists():
        return read_safetensors(folder / WEIGHTS)
    if not (folder / INDEX).exists():
        raise BadInputError(
            f"{folder}: has neither {WEIGHTS} nor {INDEX}; only safetensors weights "
            "are read"
        )
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BadInputError(f"{folder / INDEX}: has no weight_map")
    weights: dict[str, np.ndarray] = {}
    for file_name in sorted({str(place) for place in places.values()}):
        if pathlib.PurePath(file_name).name != file_name:
            raise BadInputError(
                f"{folder / INDEX}: names {file_name!r}, which is not a file beside it"
            )
        shard = read_safetensors(folder / file_name)
        for name, place in places.items():
            if place == file_name:
                if name not in shard:
                    raise BadInputError(
                        f"{folder / file_name}: lacks {name!r}, which {INDEX} places "
                        "there"
                    )
                weights[name] = shard[name]
    return weights


def write_safetensors(
    path: str | os.PathLike[str], weights: Mapping[str, np.ndarray]
) -> None:
    """Writes one safetensors file, durably.

    Args:
      path: the file; replaced if it exists.
      weights: arrays by name.

    Raises:
      OSError: if it cannot be written.
    """
    import safetensors
    import safetensors.numpy

    arrays = {name: np.ascontiguousarray(weights[name]) for name in sorted(weights)}
    try:
        # transformers refuses files without this note
        safetensors.numpy.save_file(arrays, os.fspath(path), {"format": "pt"})
    except safetensors.SafetensorError as err:  # it hides the system's error
        raise OSError(f"cannot write {path}: {err}") from err
    # the library makes it private; here it is as readable as its folder
    os.chmod(path, os.stat(os.path.dirname(os.path.abspath(path))).st_mode & 0o666)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read_folder(
    folder: str | os.PathLike[str], dtype: Any = None
) -> tuple[LlamaConfig, dict[str, np.ndarray]]:
    """Reads config and weights of a folder, checked against each other.

    Args:
      folder: holds `config.json` and safetensors weights.
      dtype: dtype to cast to; None keeps the stored ones.

    Returns:
      The config and exactly the weights of `config.weight_shapes()`.

    Raises:
      BadInputError: naming the file, setting or weight that is wrong.
    """
    path = pathlib.Path(folder) / "config.json"
    config = LlamaConfig.from_hf(read_json(path), source=str(path))
    return config, check_weights(read_weights(folder), config, dtype, str(folder))


def check_weights(
    weights: Mapping[str, np.ndarray],
    config: LlamaConfig,
    dtype: Any,
    source: str,
) -> dict[str, np.ndarray]:
    """Matches weights with a config and casts them.

    Passed over: `rotary_emb.inv_freq` and `rope_freqs.weight`, which follow from the
    config, and a head beside tied embeddings if it equals them.

    Args:
      weights: arrays by Hugging Face's names.
      config: the model they are for.
      dtype: dtype of the result; None keeps each weight's own.
      source: named in error messages.

    Returns:
      Exactly the weights of `config.weight_shapes()`, in its order.

    Raises:
      BadInputError: naming the weight, if one is missing, maps to nothing, has another
        shape or is not floating point.
    """
    shapes = config.weight_shapes()
    for name, weight in weights.items():
        if name in shapes or _HARMLESS.fullmatch(name):
            continue
        if name == _TIED_HEAD and np.array_equal(
            weight, weights.get("model.embed_tokens.weight")
        ):
            continue
        if name == _TIED_HEAD:
            raise BadInputError(
                f"{source}: has {name}, which differs from the embedding, but its "
                "config says tie_word_embeddings"
            )
        raise BadInputError(
            f"{source}: weight {name!r} {tuple(weight.shape)} maps to nothing in a "
            "Llama model of this config"
        )
    checked: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        weight = weights.get(name)
        if weight is None:
            raise BadInputError(f"{source}: lacks weight {name!r} {shape}")
        if tuple(weight.shape) != shape:
            raise BadInputError(
                f"{source}: weight {name!r} should have shape {shape}, but has "
                f"{tuple(weight.shape)}"
            )
        if not jnp.issubdtype(weight.dtype, jnp.floating):
            raise BadInputError(
                f"{source}: weight {name!r} should be floating point, but is "
                f"{weight.dtype}; quantised checkpoints are not read"
            )
        checked[name] = weight if dtype is None else weight.astype(dtype, copy=False)
    return checked
