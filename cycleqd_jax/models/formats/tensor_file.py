"""A safetensors file that is read and written one tensor at a time.

The safetensors library maps a whole file into memory to read it, so that its pages
count as memory of the process, and takes all arrays at once to write it. Here a tensor,
or some of its rows, is read into a buffer of its own, from a disk or from a bucket, and
arrays are written as they come.

Source: the format, https://huggingface.co/docs/safetensors.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import remote
from cycleqd_jax.files.byte_file import ByteFile
from cycleqd_jax.files.copied import CopiedFile

_DTYPES = {  # in the library's order of arrays in a file, the last one first
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "F16": np.dtype(np.float16),
    "BF16": jnp.dtype(jnp.bfloat16),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # bytes, as in the library
_CALL = 1 << 30  # bytes that one system call writes
_ALIGNMENT = 64  # bytes; JAX on a CPU takes memory so aligned without a copy
_METADATA = "__metadata__"


class _Entry(NamedTuple):
    """Dtype as the file names it, shape, and place in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class TensorFile(Mapping[str, np.ndarray]):
    """The tensors of one file by name; every access reads.

    Attributes:
      path: of the file.
      metadata: texts that the writer put beside the tensors.
      source: its bytes.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Opens a file and reads its header.

        Raises:
          BadInputError: it is missing, or is not a whole safetensors file.
        """
        self.path = path
        try:
            url = os.fspath(path)
            self.source = CopiedFile(url) if remote.is_url(url) else ByteFile(url)
            self.metadata, self._entries = _read_header(self.source)
        except BadInputError:  # a bucket's
            raise
        except FileNotFoundError as err:
            raise BadInputError(f"{path}: no such file") from err
        except (
            OSError, ValueError, TypeError, KeyError, RecursionError
        ) as err:  # fmt: skip
            raise BadInputError(
                f"{path}: is not a whole safetensors file ({files.reason(err)}); copy "
                "or download it again"
            ) from err

    @property
    def origin(self) -> ByteFile | CopiedFile:
        """The file that tensors are read from."""
        return self.source

    def outline(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape, and name of the dtype: NumPy's where it is floating, else the file's.

        Nothing is read for it.
        """
        entry = self._entries[name]
        dtype = _DTYPES.get(entry.dtype)
        known = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
        return entry.shape, dtype.name if known else entry.dtype

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows `first` to `last - 1` of a tensor of one or more dimensions."""
        entry = self._entries[name]
        shape = (last - first, *entry.shape[1:])
        size = math.prod(entry.shape[1:]) * _DTYPES[entry.dtype].itemsize
        return self._read(entry, shape, entry.start + first * size)

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        return self._read(entry, entry.shape, entry.start)

    def _read(self, entry: _Entry, shape: tuple[int, ...], start: int) -> np.ndarray:
        dtype = _DTYPES[entry.dtype]
        size = math.prod(shape) * dtype.itemsize
        room = np.empty(size + _ALIGNMENT, np.uint8)
        first = -room.ctypes.data % _ALIGNMENT
        content = room[first : first + size]
        self.source.read_into(content, start)
        return content.view(dtype).reshape(shape)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # the inherited method would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class StoredArray:
    """An array in a file; NumPy reads it wherever it takes an array.

    Attributes:
      shape: its dimensions.
      dtype: NumPy's.
    """

    def __init__(self, file: TensorFile, name: str):
        """Takes an open file and a name in it."""
        self._file, self._name = file, name
        self.shape, dtype = file.outline(name)
        self.dtype = jnp.dtype(_DTYPES.get(dtype, dtype))

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        array = self._file[self._name]
        return array if dtype is None else array.astype(dtype, copy=False)


def write_tensors(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Writes a file; one array at a time is on the host.

    Equal arguments give equal bytes, which are those that the library writes.

    Args:
      path: the file; replaced if it exists.
      arrays: anything with `shape` and `dtype` that NumPy takes, by name.
      metadata: texts.

    Raises:
      OSError: it cannot be written.
    """
    outlines = {n: (tuple(a.shape), np.dtype(a.dtype)) for n, a in arrays.items()}
    head, places = lay_out(outlines, metadata)
    with open(path, "wb") as file:
        file.write(head)
        for name in places:
            array = np.ascontiguousarray(arrays[name])
            content = memoryview(array.reshape(-1).view(np.uint8))
            for i in range(0, len(content), _CALL):
                file.write(content[i : i + _CALL])


def lay_out(
    outlines: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    metadata: Mapping[str, str],
) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a file, and where each tensor begins, in their order.

    Args:
      outlines: shape and dtype of each tensor.
      metadata: texts.
    """
    order = list(_DTYPES.values())
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    starts, offset = {}, 0
    for name in sorted(outlines, key=lambda n: (-order.index(outlines[n][1]), n)):
        shape, dtype = outlines[name]
        starts[name] = offset
        offset += math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [starts[name], offset],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + start for name, start in starts.items()}


def _read_header(source: ByteFile) -> tuple[dict[str, str], dict[str, _Entry]]:
    """Metadata and entries of a file.

    Raises:
      OSError, ValueError, TypeError, KeyError, RecursionError: it is damaged.
    """
    size = source.size
    if size < 8:
        raise ValueError(f"it has {size} bytes")
    length = int.from_bytes(source.read(0, 8), "little")
    if length > min(_LONGEST_HEADER, size - 8):
        raise ValueError(f"it has {size} bytes, too few for its header of {length}")
    header = json.loads(source.read(8, 8 + length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop(_METADATA, None) or {}
    first, end, entries = 8 + length, 0, {}
    for name, fields in sorted(header.items(), key=lambda it: it[1]["data_offsets"]):
        start, stop = fields["data_offsets"]
        shape = tuple(fields["shape"])
        if any(type(number) is not int for number in (start, stop, *shape)):
            raise ValueError(f"{name!r} has a size or place that is no whole number")
        dtype = _DTYPES.get(fields["dtype"])
        expected = dtype and math.prod(shape) * dtype.itemsize
        if start != end or stop < start or min(shape, default=0) < 0:
            raise ValueError(f"the place of {name!r} in it is wrong")
        if expected is not None and stop - start != expected:
            raise ValueError(f"{name!r} has {stop - start} bytes instead of {expected}")
        entries[name] = _Entry(fields["dtype"], shape, first + start, first + stop)
        end = stop
    if first + end != size:
        raise ValueError(f"it has {size} bytes instead of {first + end}")
    return metadata, {name: entries[name] for name in header}
