"""The container of a GGUF file: fields and tensors, and all parts of a split file."""

import os
import pathlib
import re
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError, show

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_PART_NAME = re.compile(r"(.*)-\d{5}-of-\d{5}\.gguf", re.IGNORECASE | re.DOTALL)


def open_gguf(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Opens a file, and with one part of a split file all others beside it.

    Args:
      path: a whole file, or any part `NAME-00001-of-00003.gguf`.

    Returns:
      The fields as plain Python values, and `gguf.ReaderTensor` by name, not yet read.

    Raises:
      BadInputError: if a file or part is missing, damaged, or of a version or byte
        order that is not supported; names it.
    """
    path = pathlib.Path(path)
    fields, tensors = _open_part(path)
    count = fields.get("split.count") or 1  # a merged file says 0
    if count == 1:
        return fields, tensors
    if not (isinstance(count, int) and 1 < count < 2**16):
        raise BadInputError(
            f"{path}: split.count is {show(count)}; expected a number of files"
        )
    parts = [_open_part(part) for part in _part_paths(path, fields, count)]
    tensors = {}
    for number, (own, held) in enumerate(parts):
        place = own.get("split.no"), own.get("split.count")
        if place != (number, count):
            raise BadInputError(
                f"{path}: part {number + 1} beside it says split.no {place[0]} and "
                f"split.count {place[1]}, but must say {number} and {count}; download "
                "the parts again"
            )
        if twice := tensors.keys() & held.keys():
            raise BadInputError(f"{path}: two parts hold tensor {min(twice)!r}")
        tensors |= held
    fields = parts[0][0]
    total = fields.get("split.tensors.count")
    if total not in (None, len(tensors)):
        raise BadInputError(
            f"{path}: its {count} parts hold {len(tensors)} tensors, but "
            f"split.tensors.count is {total}; download the parts again"
        )
    return fields, tensors


def open_reader(path: str | os.PathLike[str]) -> Any:
    """The `gguf.GGUFReader` of a file that `open_gguf` opens; its fields have types."""
    return _reader_class()(pathlib.Path(path))


def _part_paths(
    path: pathlib.Path, fields: dict[str, Any], count: int
) -> list[pathlib.Path]:
    number = fields.get("split.no")
    match = _PART_NAME.fullmatch(path.name)
    if match is None:
        raise BadInputError(
            f"{path}: is part {number} (split.no) of a model in {count} files "
            f"(split.count), whose names must end in -00001-of-{count:05}.gguf and so "
            "on; give the files their names back"
        )
    paths = [
        path.with_name(f"{match[1]}-{i + 1:05}-of-{count:05}.gguf")
        for i in range(count)
    ]
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise BadInputError(
            f"{path}: is one of the {count} parts (split.count) of a model; missing "
            f"beside it: {', '.join(missing)}"
        )
    return paths


def _open_part(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        _check_beginning(path)
        reader = _reader_class()(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        return fields, {tensor.name: tensor for tensor in reader.tensors}
    except FileNotFoundError as err:
        raise BadInputError(f"{path}: no such file") from err
    except OSError as err:
        raise BadInputError(f"{path}: cannot be read: {err}") from err
    except BadInputError:
        raise
    except (ValueError, KeyError, IndexError, OverflowError, TypeError) as err:
        raise BadInputError(
            f"{path}: is not a whole GGUF file ({err}); download it again"
        ) from err


def _check_beginning(path: pathlib.Path) -> None:
    with open(path, "rb") as file:
        magic, version = file.read(4), file.read(4)
    if magic != _MAGIC:
        raise BadInputError(
            f"{path}: is not a GGUF file; expected it to begin with {_MAGIC!r}, but it "
            f"begins with {magic!r}"
        )
    if int.from_bytes(version, "big") in _VERSIONS:
        raise BadInputError(
            f"{path}: is a big-endian GGUF file, which is not supported; convert it "
            "with gguf-convert-endian of the gguf package"
        )
    if int.from_bytes(version, "little") not in _VERSIONS:
        raise BadInputError(
            f"{path}: has GGUF version {int.from_bytes(version, 'little')}; expected "
            f"one of {_VERSIONS}; convert the model again with llama.cpp"
        )


def _reader_class() -> type:
    import gguf

    known = {int(kind) for kind in gguf.GGMLQuantizationType}

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
                return super()._get_field_parts(orig_offs, raw_type)
            content, parts = memoryview(self.data), []
            for _ in range(count):
                size = int.from_bytes(content[offset : offset + 8], "little")
                start, offset = offset + 8, offset + 8 + size
                if offset > len(content):
                    raise ValueError(f"an array at offset {orig_offs} is cut off")
                parts.append(content[start:offset])
            return offset - orig_offs, parts, list(range(count)), types

        def _build_tensors(self, start_offs, fields):
            for field in fields:
                kind = int(field.parts[4][0])
                if kind not in known:
                    raise BadInputError(
                        f"{self.data.filename}: tensor {field.name!r} has type {kind}, "
                        "which is not supported; quantise the model anew with llama.cpp"
                    )
            super()._build_tensors(start_offs, fields)

    return Reader
