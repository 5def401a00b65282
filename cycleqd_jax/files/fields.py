"""The base of all settings, and the kinds of values that they have."""

import datetime
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from cycleqd_jax.errors import BadInputError, explain

_NAME = r"[A-Za-z0-9][\w.-]{0,63}"


def home(path: str) -> str:
    """A path whose `~` or `~user` at the beginning is the home folder.

    Raises:
      ValueError: there is no such folder.
    """
    expanded = os.path.expanduser(path)
    if re.match("~[^/]*(/|$)", expanded):
        raise ValueError(f"{path} names a home folder that does not exist")
    return expanded


def _date(value: Any) -> Any:
    """YAML reads 2024-07-26 as a date; `to_yaml` writes it as text."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return datetime.date.fromisoformat(value)
    return value


def _import_path(path: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", path):
        raise ValueError("Input should be an import path like package.module:name")
    return path


def _task_name(name: str) -> str:
    if name.startswith("lm_eval:") and name != "lm_eval:":
        return name
    if not name.isidentifier() and ":" not in name:
        raise ValueError(
            "Input should be a name like pocket_coding, an import path like "
            "package.module:Class, or lm_eval:TASK"
        )
    return name if name.isidentifier() else _import_path(name)


def check_name(name: str) -> str:
    """A name that files, tables and figures can have.

    Raises:
      ValueError: it is another text.
    """
    if not isinstance(name, str) or not re.fullmatch(_NAME, name, re.ASCII):
        raise ValueError(
            "expected at most 64 letters, digits, dots, dashes and underscores, the "
            "first a letter or digit, like coding or db-and-os"
        )
    return name


def each_once(values: Sequence[Hashable]) -> Sequence[Hashable]:
    """A validator that refuses a list with a value in it twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} is there twice; expected each once")
    return values


_Value = TypeVar("_Value")
# Of a list in YAML; every value once.
EachOnce = Annotated[tuple[_Value, ...], Field(strict=False), AfterValidator(each_once)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
PathText = Annotated[Text, AfterValidator(home)]
ImportPath = Annotated[Text, AfterValidator(_import_path)]
Date = Annotated[datetime.date, BeforeValidator(_date)]
Name = Annotated[str, AfterValidator(check_name)]
TaskName = Annotated[Text, AfterValidator(_task_name)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
# Bounded, so that no product of a few of them overflows.
Count = Annotated[int, Field(ge=0, le=10**6)]
Whole = Annotated[int, Field(ge=1, le=10**6)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Far from the ends of float32, and so are products of a few of them.
Scale = Annotated[float, Field(ge=1e-6, le=1e6)]


class Section(pydantic.BaseModel):
    """Settings of one part: frozen, strict (no "3" for 3), without unknown keys."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )


Model = TypeVar("Model", bound=Section)


def parse_section(key: str, data: Mapping[str, Any], model: type[Model]) -> Model:
    """Reads settings that only one task or search knows.

    Args:
      key: where they are in the config, like `task_settings.mbpp`.
      data: what is there.
      model: says what may be there.

    Raises:
      BadInputError: one sentence with the key and what is wrong.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as err:
        raise BadInputError(explain(err, data, model, key)[1]) from err
