"""Data from files that others wrote, checked by a pydantic model before use."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError, explain

Model = TypeVar("Model", bound=pydantic.BaseModel)


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
