"""Data from files that others wrote, checked by a pydantic model before use."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import pydantic

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, explain

Model = TypeVar("Model", bound=pydantic.BaseModel)

_BLOCK = 1 << 20  # values looked at in one step, so that no large mask is made
# NumPy is slow with these dtypes, so their bits are compared with those of infinity.
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80}


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
      BadInputError: naming the file, if it is missing or not a JSON object.
    """
    data = files.read_json(pathlib.Path(path))
    if not isinstance(data, dict):
        raise BadInputError(f"{path}: expected a JSON object, got {data!r:.60}")
    return data


def parse(model: type[Model], data: Mapping[str, Any], source: object) -> Model:
    """Makes a model of untrusted data.

    Args:
      model: the pydantic model.
      data: its fields.
      source: where they came from; the error message begins with it.

    Raises:
      BadInputError: one sentence with the first wrong field, what it must be and what
        it is.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as err:
        sentence = explain(err, data, model)[1].removesuffix(".")
        raise BadInputError(f"{source}: {sentence}") from err


def check_finite(array: np.ndarray, what: str) -> None:
    """Refuses an array that holds NaN or infinity.

    Args:
      array: of a floating dtype, any shape.
      what: the array's file and name; the error message begins with it.

    Raises:
      BadInputError: a value is not finite.
    """
    if not _is_finite(array):
        raise BadInputError(
            f"{what} holds values that are not finite (NaN or infinity); the file is "
            "damaged or its training diverged"
        )


def cast(array: np.ndarray, dtype: Any, what: str) -> np.ndarray:
    """A finite array in another floating dtype; the array itself if it has that one.

    Args:
      array: finite, any shape.
      dtype: a NumPy dtype.
      what: as for `check_finite`.

    Raises:
      BadInputError: a value is beyond the range of `dtype`.
    """
    with np.errstate(over="ignore"):
        rounded = array.astype(dtype, copy=False)
    if rounded is not array and not _is_finite(rounded):
        largest = np.abs(array.astype(np.float64)).max()
        raise BadInputError(
            f"{what} holds {largest:.3g}, which is beyond the range of "
            f"{rounded.dtype.name}; choose a dtype with a larger range, or check its "
            "training"
        )
    return rounded


def _is_finite(array: np.ndarray) -> bool:
    flat, infinity = array.reshape(-1), _INFINITY.get(array.dtype.name)
    flat = flat if infinity is None else flat.view(np.uint16)
    for i in range(0, flat.size, _BLOCK):
        block = flat[i : i + _BLOCK]
        if infinity is not None and (block & 0x7FFF).max() >= infinity:
            return False
        if infinity is None and not np.isfinite(block).all():
            return False
    return True
