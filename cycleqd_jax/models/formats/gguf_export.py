"""Writes a GGUF file: a header and any weights that belong to it."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import write_atomically
from cycleqd_jax.models.formats.gguf_header import GGUFHeader
from cycleqd_jax.models.formats.gguf_rope import FREQUENCIES

GGUFType = Literal["F16", "Q8_0"]
_LARGEST = float(np.finfo(np.float16).max)


def export_gguf(
    path: str | os.PathLike[str],
    header: GGUFHeader,
    weights: Mapping[str, Any],
    kind: GGUFType,
) -> None:
    """Writes weights as a GGUF file, in memory for one array.

    Vectors are stored as F32, and matrices whose rows do not fit the blocks of Q8_0 as
    F16. F16 rounds numbers to 11 bits; Q8_0 to 8 bits in blocks of 32.

    Args:
      path: the new file.
      header: all but the weights.
      weights: by Hugging Face's names, `[out, in]`, floating; exactly the header's.
      kind: the type of matrices.

    Raises:
      BadInputError: the weights are not those of the header, or a number is too large
        for F16.
      RunError: the file cannot be written.
    """
    if kind not in get_args(GGUFType):
        raise BadInputError(
            f"GGUF type {kind!r} is not written; expected one of "
            f"{', '.join(get_args(GGUFType))}."
        )
    layout = header.layout
    _check_weights(header, weights)
    types = {
        name: _type_of(layout.shapes[own], kind) for name, own in layout.names.items()
    }
    for name, own in layout.names.items():
        if types[name].name == "F16":
            _check_range(own, weights[own])

    def write(place: pathlib.Path) -> None:
        import gguf
        from gguf.quants import quantize

        writer = gguf.GGUFWriter(place, layout.architecture)
        for name, field in header.fields.items():
            writer.add_key_value(name, field.value, field.type, field.sub_type)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        if header.divisors is not None:
            divisors = header.divisors
            writer.add_tensor_info(
                FREQUENCIES, divisors.shape, divisors.dtype, divisors.nbytes
            )
        for name, own in layout.names.items():
            shape, dtype = layout.shapes[own], types[name]
            block, size = gguf.GGML_QUANT_SIZES[dtype]
            writer.add_tensor_info(
                name, shape, np.dtype(np.float32), np.prod(shape) // block * size, dtype
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if header.divisors is not None:
            writer.write_tensor_data(header.divisors)
        for name, own in layout.names.items():
            weight = np.asarray(weights[own]).astype(np.float32)
            if own.split(".")[-2] in layout.interleaved:
                weight = _interleave(weight, layout.head_dim)
            data = quantize(weight, types[name])
            writer.write_tensor_data(np.ascontiguousarray(data))
        writer.close()

    write_atomically(pathlib.Path(path), write)


def _check_weights(header: GGUFHeader, weights: Mapping[str, Any]) -> None:
    expected = header.layout.shapes
    given = {name: tuple(array.shape) for name, array in weights.items()}
    if given != expected:
        odd = min(name for name, _ in given.items() ^ expected.items())
        raise BadInputError(
            f"{header.source}: its weights are others than those given: {odd} is "
            f"{expected.get(odd, 'none')} there and {given.get(odd, 'none')} here; "
            "export the folder without a GGUF file."
        )


def _check_range(name: str, weight: Any) -> None:
    largest = float(np.abs(np.asarray(weight).astype(np.float32)).max(initial=0.0))
    if largest > _LARGEST:
        raise BadInputError(
            f"{name}: has the number {largest:g}, which F16 cannot hold; write Q8_0."
        )


def _type_of(shape: tuple[int, ...], kind: GGUFType) -> Any:
    """The type in which a tensor is stored."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) == 1:
        return GGMLQuantizationType.F32
    dtype = GGMLQuantizationType[kind]
    fits = shape[-1] % GGML_QUANT_SIZES[dtype][0] == 0
    return dtype if fits else GGMLQuantizationType.F16


def _interleave(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """The rows of every head in llama.cpp's order."""
    rows = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)
