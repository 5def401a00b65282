"""Writes a GGUF file of other weights than those of one that was read.

Vocabulary, chat template and all settings are copied from the base's own file, so that
no converter has to guess them.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import write_atomically
from cycleqd_jax.models.formats.gguf import gguf_layout
from cycleqd_jax.models.formats.gguf_file import open_gguf, open_reader
from cycleqd_jax.models.formats.gguf_rope import FREQUENCIES

GGUFType = Literal["F16", "Q8_0"]
# What the writer writes itself, or what is not so in the new file.
_NOT_COPIED = ("GGUF.", "split.", "general.architecture", "general.file_type")
_VERSION = "general.quantization_version"


def export_gguf(
    path: str | os.PathLike[str],
    base: str | os.PathLike[str],
    weights: Mapping[str, Any],
    kind: GGUFType,
) -> None:
    """Writes weights as a GGUF file of the base's architecture.

    Vectors are stored as F32, and matrices whose rows do not fit the blocks of Q8_0 as
    F16. F16 rounds numbers to 11 bits; Q8_0 to 8 bits in blocks of 32.

    Args:
      path: the new file.
      base: the base's GGUF file, or one part of it.
      weights: by Hugging Face's names, `[out, in]`, floating; exactly the base's.
      kind: the type of matrices.

    Raises:
      BadInputError: `base` cannot be read, the weights are not those of its model, or a
        number is too large for F16.
      RunError: the file cannot be written.
    """
    if kind not in get_args(GGUFType):
        raise BadInputError(
            f"GGUF type {kind!r} is not written; expected one of "
            f"{', '.join(get_args(GGUFType))}."
        )
    names, interleaved, config = gguf_layout(base)
    expected = {name: tuple(shape) for name, shape in config.weight_shapes().items()}
    given = {name: tuple(array.shape) for name, array in weights.items()}
    if given != expected:
        odd = min(name for name, _ in given.items() ^ expected.items())
        raise BadInputError(
            f"{base}: its weights are others than those given: {odd} is "
            f"{expected.get(odd, 'none')} there and {given.get(odd, 'none')} here; "
            "export the folder without a GGUF file."
        )
    _, tensors = open_gguf(base)

    def write(place: pathlib.Path) -> None:
        writer = _writer_like(place, base, kind)
        for name, tensor in tensors.items():
            if name == FREQUENCIES:
                data, dtype = tensor.data, tensor.tensor_type
            else:
                weight = np.asarray(weights[names[name]]).astype(np.float32)
                if names[name].split(".")[-2] in interleaved:
                    weight = _interleave(weight, config.head_dim)
                data, dtype = _stored(names[name], weight, kind)
            writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_atomically(pathlib.Path(path), write)


def _writer_like(place: pathlib.Path, base: Any, kind: GGUFType) -> Any:
    """A writer with the fields of the base's file."""
    import gguf

    fields = open_reader(base).fields
    architecture = fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(place, architecture)
    for name, field in fields.items():
        if name.startswith(_NOT_COPIED) or name == _VERSION:
            continue
        inner = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    return writer


def _stored(name: str, weight: np.ndarray, kind: GGUFType) -> tuple[np.ndarray, Any]:
    """The bytes of a tensor and their type."""
    import gguf
    from gguf.quants import quantize

    if weight.ndim == 1:
        return weight, gguf.GGMLQuantizationType.F32
    dtype = gguf.GGMLQuantizationType.Q8_0
    if kind == "Q8_0" and weight.shape[-1] % gguf.GGML_QUANT_SIZES[dtype][0] == 0:
        return quantize(weight, dtype), dtype
    largest = float(np.abs(weight).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise BadInputError(
            f"{name}: has the number {largest:g}, which F16 cannot hold; write Q8_0."
        )
    return weight.astype(np.float16), gguf.GGMLQuantizationType.F16


def _interleave(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """The rows of every head in llama.cpp's order."""
    rows = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)
