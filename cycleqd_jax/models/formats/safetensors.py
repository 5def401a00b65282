"""Tensors in safetensors files, in and out; reading is lazy."""

import hashlib
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import copied, remote
from cycleqd_jax.models.base import EMBEDDING, HEAD, WeightsConfig
from cycleqd_jax.models.formats.conversion import how_to_convert
from cycleqd_jax.models.formats.tensor_file import TensorFile
from cycleqd_jax.models.rounding import is_rounded_copy
from cycleqd_jax.models.validated import cast, check_finite, read_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = ("float32", "bfloat16", "float16")
_SETTLED = 10.0  # seconds

# Buffers of old checkpoints that follow from the config.
_DERIVED = re.compile(r".*\brotary_emb\.inv_freq|rope_freqs\.weight")
# Copies of tied weights that some files hold beside them.
_COPIES = {
    HEAD: EMBEDDING,
    "prompt_encoder.shared_embedding.positional_embedding": (
        "shared_image_embedding.positional_embedding"
    ),
}
FLOATING = ("float64", "float32", "float16", "bfloat16")


class StoredWeights(Mapping[str, np.ndarray]):
    """Arrays by name, each read from its file when it is asked for, and not kept.

    Opening checks the files' headers and sizes. Every array that is read is floating
    point and finite, in its stored dtype or the one that it is cast to: others raise
    `BadInputError` with the names of file and tensor.
    """

    def __init__(
        self,
        files_of: Mapping[str, TensorFile],
        dtype: np.dtype | None = None,
        digests: dict[str, str] | None = None,
    ):
        """Takes open files by the name of the array they hold, and the dtype to have.

        Without a dtype, arrays keep their own. `digests`, if given, takes the digest of
        every array that is read whole.
        """
        self._files = files_of
        self._dtype = dtype
        self._digests = digests

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._checked(name, lambda file: file[name])
        if self._digests is not None and name not in self._digests:
            self._digests[name] = digest_of_array(array)
        return array

    def digest(self, name: str) -> str:
        """`digest_of_array` of an array, which is read unless it was before.

        Only weights from `digesting` know what was read before.
        """
        known = {} if self._digests is None else self._digests
        return known.get(name) or digest_of_array(self[name])

    def digesting(self) -> "StoredWeights":
        """The same, which hashes each array when it is first read whole."""
        return StoredWeights(self._files, self._dtype, {})

    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Some rows of an array, or of each of them some columns; whole rows are read.

        Args:
          name: of the array.
          index: a slice per dimension, as `jax.make_array_from_callback` gives them.
        """
        if not index:
            return self[name]
        first, last, _ = index[0].indices(self.outline(name)[0][0])
        rows = self._checked(name, lambda file: file.rows(name, first, last))
        return np.ascontiguousarray(rows[(slice(None), *index[1:])])

    def _checked(
        self, name: str, read: Callable[[TensorFile], np.ndarray]
    ) -> np.ndarray:
        file = self._files[name]
        what = f"{file.path}: tensor {name!r}"
        _check_floating(file.outline(name)[1], file.path, name)
        array = read(file)
        check_finite(array, what)
        return array if self._dtype is None else cast(array, self._dtype, what)

    def __contains__(self, name: object) -> bool:
        return name in self._files  # the inherited method would read the array

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def nbytes(self) -> int:
        """Size of all files together."""
        return sum(file.source.size for file in self._opened())

    def identity(self, *, settled: bool = True) -> str | None:
        """A hash that every change of the files changes; they are not read for it.

        None where a file was changed just now: a further change could go unnoticed, as
        file systems count time in steps. With `settled=False` it is given even so.
        """
        sources = [file.source for file in self._opened()]
        is_new = max(source.changed for source in sources) > time.time() - _SETTLED
        if is_new and settled:
            return None
        facts = [sorted(source.identity for source in sources), sorted(self)]
        return files.hash_arrays({}, [*facts, self._dtype and self._dtype.name])

    def copy_here(self) -> None:
        """Copies what lies in a bucket to the disk, as `copied.copy_all` does."""
        copied.copy_all(file.origin for file in self._opened())

    def _opened(self) -> list[TensorFile]:
        return list({id(file): file for file in self._files.values()}.values())

    def outline(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and name of the dtype of an array, without reading it."""
        shape, dtype = self._files[name].outline(name)
        return shape, dtype if self._dtype is None else self._dtype.name

    def first_rows(self, name: str, count: int) -> np.ndarray:
        """The first rows of a floating array of one or more dimensions, unchecked."""
        file = self._files[name]
        return file.rows(name, 0, min(count, file.outline(name)[0][0]))

    def only(self, names: Iterable[str]) -> "StoredWeights":
        """The same without the arrays that are not named."""
        return StoredWeights({name: self._files[name] for name in names}, self._dtype)

    def cast_to(self, dtype: np.dtype) -> "StoredWeights":
        """The same, whose arrays are cast after they are read."""
        return StoredWeights(self._files, dtype)

    def file(self, name: str) -> Any:
        """The source of an array: a file, or an array in memory."""
        return self._files[name]

    def reading(self, files_of: Mapping[str, Any]) -> "StoredWeights":
        """The same with arrays added or replaced, by what they are read from."""
        return StoredWeights({**self._files, **files_of}, self._dtype)


def digest_of_array(array: np.ndarray) -> str:
    """Sha256 (hex) over the dtype, the shape and the bytes of an array."""
    digest = hashlib.sha256(f"{array.dtype.name} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def open_file(path: str | os.PathLike[str]) -> StoredWeights:
    """Opens one safetensors file.

    Raises:
      BadInputError: naming the file, if it is missing, truncated or damaged.
    """
    file = TensorFile(path)
    return StoredWeights(dict.fromkeys(file, file))


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
    if (whole := remote.find(folder, WEIGHTS)) is not None:
        return open_file(whole)
    if not (folder / INDEX).exists():
        raise BadInputError(
            f"{folder}: has neither {WEIGHTS} nor {INDEX}; only safetensors weights "
            f"are read{how_to_convert(folder)}"
        )
    places = _read_index(folder)
    shards: dict[str, TensorFile] = {}
    for name, place in places.items():
        if place not in shards:
            shards[place] = TensorFile(remote.find(folder, place) or folder / place)
        if name not in shards[place]:
            raise BadInputError(
                f"{folder / place}: lacks {name!r}, which {INDEX} places there"
            )
    return StoredWeights({name: shards[place] for name, place in places.items()})


def first_rows(weights: Mapping[str, np.ndarray], name: str, count: int) -> np.ndarray:
    """The first rows of an array; of a stored one, no others are read."""
    if isinstance(weights, StoredWeights):
        return weights.part(name, (slice(count),))
    return weights[name][:count]


def missing_files(folder: str | os.PathLike[str]) -> list[str]:
    """Files that a model folder's index, if it has one, names but that are not there.

    Raises:
      BadInputError: the index is damaged.
    """
    folder = pathlib.Path(folder)
    if remote.find(folder, WEIGHTS) or not (folder / INDEX).exists():
        return []
    places = dict.fromkeys(_read_index(folder).values())
    return [place for place in places if remote.find(folder, place) is None]


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
    weights: Mapping[str, Any], config: WeightsConfig, source: object
) -> None:
    """Checks that weights are those of a model; stored ones are not read for it.

    Extra arrays may be buffers that follow from the config, and copies of tied weights
    that equal them.

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
        original = _COPIES.get(name)
        if original not in shapes:
            raise BadInputError(
                f"{source}: weight {name!r} {_outline(weights, name)[0]} maps to "
                f"nothing in a {config.model_type} model of this config"
            )
        if not is_rounded_copy(weights[name], weights[original]):
            which = "the embedding" if name == HEAD else original
            raise BadInputError(
                f"{source}: has {name}, which differs from {which}, but its config "
                "says tie_word_embeddings"
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


def _outline(weights: Mapping[str, Any], name: str) -> tuple[tuple[int, ...], str]:
    if isinstance(weights, StoredWeights):
        return weights.outline(name)
    return tuple(weights[name].shape), weights[name].dtype.name
