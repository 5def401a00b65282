"""Tensors in safetensors files, in and out; reading is lazy."""

import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.base import EMBEDDING, HEAD, ModelConfig
from cycleqd_jax.models.formats.conversion import how_to_convert
from cycleqd_jax.models.rounding import is_rounded_copy
from cycleqd_jax.models.validated import check_finite, read_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = ("float32", "bfloat16", "float16")

# Buffers of old checkpoints that follow from the config.
_DERIVED = re.compile(r".*\brotary_emb\.inv_freq|rope_freqs\.weight")
FLOATING = ("float64", "float32", "float16", "bfloat16")
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class _Opened(NamedTuple):
    """A safetensors file and its path, for messages."""

    path: str | os.PathLike[str]
    file: Any


class StoredWeights(Mapping[str, np.ndarray]):
    """Arrays by name, each read from its file when it is asked for, and not kept.

    Opening checks the files' headers and sizes. Every array that is read is floating
    point, in its stored dtype, and finite: others raise `BadInputError` with the names
    of file and tensor.
    """

    def __init__(self, opened: Mapping[str, _Opened]):
        """Takes opened files by the name of the array they hold."""
        self._opened = opened

    def __getitem__(self, name: str) -> np.ndarray:
        path, file = self._opened[name]
        _check_floating(self.outline(name)[1], path, name)
        array = file.get_tensor(name)
        check_finite(array, f"{path}: tensor {name!r}")
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._opened  # the inherited method would read the array

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened)

    def __len__(self) -> int:
        return len(self._opened)

    def outline(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and name of the dtype of an array, without reading it."""
        part = self._opened[name].file.get_slice(name)
        dtype = part.get_dtype()
        return tuple(part.get_shape()), _NAMES.get(dtype, dtype)

    def first_rows(self, name: str, count: int) -> np.ndarray:
        """The first rows of a floating array of one or more dimensions, unchecked."""
        return self._opened[name].file.get_slice(name)[:count]

    def only(self, names: Iterable[str]) -> "StoredWeights":
        """The same without the arrays that are not named."""
        return StoredWeights({name: self._opened[name] for name in names})


def open_file(path: str | os.PathLike[str]) -> StoredWeights:
    """Opens one safetensors file.

    Raises:
      BadInputError: naming the file, if it is missing, truncated or damaged.
    """
    opened = _open(path)
    return StoredWeights(dict.fromkeys(opened.file.keys(), opened))


def open_folder(folder: str | os.PathLike[str]) -> StoredWeights:
    """Opens the weights of a model folder, following its index if it has one.

    Args:
      folder: holds `model.safetensors`, or `model.safetensors.index.json` and the
        files it names.

    Raises:
      BadInputError: naming the file, if one is missing or damaged, or lacks a tensor
        that the index places there.
    """
    folder = pathlib.Path(folder)
    if (folder / WEIGHTS).exists():
        return open_file(folder / WEIGHTS)
    if not (folder / INDEX).exists():
        raise BadInputError(
            f"{folder}: has neither {WEIGHTS} nor {INDEX}; only safetensors weights "
            f"are read{how_to_convert(folder)}"
        )
    places = _read_index(folder)
    shards: dict[str, _Opened] = {}
    for name, place in places.items():
        if place not in shards:
            shards[place] = _open(folder / place)
        if name not in shards[place].file.keys():
            raise BadInputError(
                f"{folder / place}: lacks {name!r}, which {INDEX} places there"
            )
    return StoredWeights({name: shards[place] for name, place in places.items()})


def missing_files(folder: str | os.PathLike[str]) -> list[str]:
    """Files that a model folder's index, if it has one, names but that are not there.

    Raises:
      BadInputError: the index is damaged.
    """
    folder = pathlib.Path(folder)
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return []
    places = dict.fromkeys(_read_index(folder).values())
    return [place for place in places if not (folder / place).exists()]


def write_file(path: str | os.PathLike[str], weights: Mapping[str, np.ndarray]) -> None:
    """Writes one safetensors file and waits until it is on the disk.

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
        # transformers refuses files without this note.
        safetensors.numpy.save_file(arrays, os.fspath(path), {"format": "pt"})
    except safetensors.SafetensorError as err:  # it hides the system's error
        raise OSError(f"cannot write {path}: {err}") from err
    # The library makes the file private; make it as readable as its folder.
    os.chmod(path, os.stat(os.path.dirname(os.path.abspath(path))).st_mode & 0o666)
    files.sync(pathlib.Path(path))


def check_dtype(dtype: Any) -> np.dtype:
    """The NumPy dtype of "float32", "bfloat16" or "float16", or of such a dtype.

    Raises:
      BadInputError: for anything else.
    """
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise BadInputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return np.dtype(found)


def check_weights(
    weights: Mapping[str, Any], config: ModelConfig, source: object
) -> None:
    """Checks that weights are those of a model; stored ones are not read for it.

    Extra arrays may be buffers that follow from the config, and a head beside tied
    embeddings that equals them.

    Args:
      weights: arrays by Hugging Face's names.
      config: the model's.
      source: what error messages begin with.

    Raises:
      BadInputError: naming the weight, if one is missing or unknown, has another shape
        or is not floating point.
    """
    shapes = config.weight_shapes()
    for name, expected in shapes.items():
        if name not in weights:
            raise BadInputError(f"{source}: lacks weight {name!r} {expected}")
        shape, dtype = _outline(weights, name)
        _check_floating(dtype, source, name)
        if shape != expected:
            raise BadInputError(
                f"{source}: weight {name!r} should have shape {expected}, but has "
                f"{shape}"
            )
    for name in weights:
        if name in shapes or _DERIVED.fullmatch(name):
            continue
        if name != HEAD:
            raise BadInputError(
                f"{source}: weight {name!r} {_outline(weights, name)[0]} maps to "
                f"nothing in a {config.model_type} model of this config"
            )
        if not is_rounded_copy(weights[HEAD], weights[EMBEDDING]):
            raise BadInputError(
                f"{source}: has {HEAD}, which differs from the embedding, but its "
                "config says tie_word_embeddings"
            )


def _check_floating(dtype: str, source: object, name: str) -> None:
    if dtype not in FLOATING:
        raise BadInputError(
            f"{source}: tensor {name!r} is {dtype}, not floating point of 16 bits or "
            "more; quantised weights are not read, so give the model or adapter in "
            "bfloat16, as it was before quantisation"
        )


def _read_index(folder: pathlib.Path) -> dict[str, str]:
    """Names of the files that an index names, by name of the array."""
    places = read_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BadInputError(f"{folder / INDEX}: has no weight_map")
    for place in places.values():
        if pathlib.PurePath(str(place)).name != place:
            raise BadInputError(
                f"{folder / INDEX}: names {place!r}, which is not a file beside it"
            )
    return places


def _open(path: str | os.PathLike[str]) -> _Opened:
    import safetensors

    try:
        return _Opened(path, safetensors.safe_open(os.fspath(path), framework="numpy"))
    except FileNotFoundError as err:
        raise BadInputError(f"{path}: no such file") from err
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as err:
        raise BadInputError(
            f"{path}: is not a whole safetensors file ({err}); copy or download it "
            "again"
        ) from err


def _outline(weights: Mapping[str, Any], name: str) -> tuple[tuple[int, ...], str]:
    if isinstance(weights, StoredWeights):
        return weights.outline(name)
    return tuple(weights[name].shape), weights[name].dtype.name
