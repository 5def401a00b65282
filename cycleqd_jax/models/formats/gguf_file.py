"""GGUF files as they lie on disk: fields and tensors, every read checked."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError

# Types of the fields used, by the end of their names; others are not looked at.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "_count": int,
    "_length": int,
    "_token_id": int,
    "_token": bool,
    ".type": str,
    ".pre": str,
    ".model": str,
    ".architecture": str,
    ".chat_template": str,
    ".factor": (int, float),
    ".freq_base": (int, float),
    ".layer_norm_rms_epsilon": (int, float),
    ".tokens": list,
    ".merges": list,
    ".scores": list,
    ".token_type": list,
}
_MAX_ARRAY = 1 << 24  # elements of a metadata array; the largest vocabularies have 2^18


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads only a file's fields, among them the vocabulary.

    Args:
      path: the file.

    Returns:
      Plain Python values by field name.

    Raises:
      BadInputError: if the file is missing or damaged.
    """
    return open_gguf(path)[0]


def open_gguf(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Opens a file and reads its fields; tensors stay on disk until looked at.

    Args:
      path: the file.

    Returns:
      Fields as plain Python values, and `gguf.ReaderTensor` by name.

    Raises:
      BadInputError: if the file is missing or damaged, or a field has a wrong type.
    """
    try:
        reader = _reader_class()(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except FileNotFoundError as err:
        raise BadInputError(f"{path}: no such file") from err
    except OSError as err:
        raise BadInputError(f"{path}: cannot be read: {err}") from err
    except (ValueError, KeyError, IndexError, OverflowError, TypeError) as err:
        raise BadInputError(
            f"{path}: is not a whole GGUF file ({err}); download it again"
        ) from err
    _check_types(metadata, path)
    return metadata, tensors


def _check_types(metadata: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    for name, value in metadata.items():
        expected = next((t for key, t in _TYPES.items() if name.endswith(key)), object)
        if not isinstance(value, expected):
            raise BadInputError(
                f"{path}: {name} has the wrong type: {value!r:.60}; the file is damaged"
            )


def _reader_class():
    import gguf

    class Reader(gguf.GGUFReader):
        """A reader that refuses to look past the file's end and reads arrays at once.

        The library's own reads a truncated file as if it held less, and spends seconds
        on a vocabulary.
        """

        def _get(self, offset, dtype, count=1, override_order=None):
            size = np.dtype(dtype).itemsize * int(count)
            if offset + size > len(self.data):
                raise ValueError(
                    f"{size} bytes expected at offset {offset}, the file has "
                    f"{len(self.data)}"
                )
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs, raw_type):
            if gguf.GGUFValueType(raw_type) != gguf.GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind = gguf.GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
            count = int(self._get(orig_offs + 4, np.uint64)[0])
            if count > _MAX_ARRAY:
                raise ValueError(f"an array of {count} elements at offset {orig_offs}")
            offset = orig_offs + 12
            types = [gguf.GGUFValueType.ARRAY, kind]
            if (dtype := self.gguf_scalar_to_np.get(kind)) is not None:
                values = self._get(offset, dtype, count)
                return 12 + values.nbytes, [values], [0], types
            if kind != gguf.GGUFValueType.STRING:
                raise ValueError(f"an array of {kind!r} at offset {orig_offs}")
            parts = []
            for _ in range(count):
                length, text = self._get_str(offset)
                parts.append(text)
                offset += length.nbytes + text.nbytes
            return offset - orig_offs, parts, list(range(count)), types

    return Reader
