"""Typed settings from YAML: one file, `key=value` overrides, one-sentence errors.

Knows nothing of what is set; `config.py` has the models. YAML is read as everybody
expects it: keys given twice are errors, and `1e-3` is a number.
"""

import difflib
import pathlib
import re
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import annotated_types
import pydantic
import pydantic.fields
import yaml

from cycleqd_jax.errors import BadInputError

Model = TypeVar("Model", bound=pydantic.BaseModel)

_FLOAT = re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$")
_FLOAT_STARTS = list("+-0123456789")
_TYPE_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a non-empty text",
}


class _Short(reprlib.Repr):
    """Looks at a few elements only: aliases make small YAML mean huge values."""

    def __init__(self):
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 20
        self.maxstring = self.maxother = 100

    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to write integers of more than 4300 digits."""
        many = value.bit_length() > 256
        return f"an integer of {value.bit_length()} bits" if many else repr(value)


_short = _Short()


class _Loader(yaml.SafeLoader):
    """Safe YAML; keys given twice are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Builds one mapping, after a look at its keys."""
        seen: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {_show(key)} is given twice",
                    key_node.start_mark,
                )
            seen.append(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back as it was."""


for _class in (_Loader, _Dumper):  # PyYAML takes 1e-3 for a string, as YAML 1.1 did
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", _FLOAT, list("-+0123456789")
    )


def load(
    path: str | pathlib.Path, overrides: Sequence[str], model: type[Model]
) -> Model:
    """Reads a YAML file into `model`.

    Args:
      path: the file; relative to the current working directory, as any file.
      overrides: `key=value` each; the key is a top-level name or `section.name`, the
        value is YAML. Later ones win.
      model: a pydantic model whose sections are models, one level deep.

    Raises:
      BadInputError: one sentence with the key, the value and what is allowed.
    """
    data = _read(pathlib.Path(path))
    overridden = [_override(data, text) for text in overrides]
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as err:
        # A misspelt key also leaves one missing: the misspelt one is what to mend.
        errors = sorted(err.errors(), key=lambda e: e["type"] != "extra_forbidden")
        where = _where(path, overridden, errors[0])
        raise BadInputError(f"{where}: {_sentence(model, data, errors[0])}") from err


def parse_section(
    key: str, data: Mapping[str, Any], model: type[Model], where: str = "config"
) -> Model:
    """Reads one section that another module's model describes.

    Args:
      key: of the section, like `task_settings.mbpp`.
      data: its content.
      model: a pydantic model.
      where: what the message begins with.

    Raises:
      BadInputError: one sentence with the key, the value and what is allowed.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as err:
        errors = sorted(err.errors(), key=lambda e: e["type"] != "extra_forbidden")
        sentence = _sentence(model, data, errors[0])
        own = errors[0]["type"] == "value_error"  # written by a validator, with its key
        raise BadInputError(
            f"{where}: {sentence}" if own else f"{where}: {key}.{sentence}"
        ) from err


def to_yaml(config: pydantic.BaseModel) -> str:
    """All settings as YAML text; `load` of it gives an equal object."""
    return yaml.dump(
        config.model_dump(mode="json"),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )


def check_unique(key: str, values: Sequence[object]) -> None:
    """No value of the list `key` is there twice.

    Raises:
      ValueError: one sentence.
    """
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{key} has {value!r} twice; expected each once.")


def check_keys(key: str, given: Mapping[str, object], tasks: Sequence[str]) -> None:
    """The keys of `given`, the value of the setting `key`, are exactly `tasks`.

    Raises:
      ValueError: one sentence.
    """
    names = ", ".join(tasks)
    for task in tasks:
        if task not in given:
            raise ValueError(
                f"{key} has no entry for {task}; expected one for each of {names}."
            )
    for name in given:
        if name not in tasks:
            raise ValueError(
                f"{key} has an entry for {name}, which is not one of the tasks {names}."
            )


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as err:
        raise BadInputError(f"{path}: there is no such config file.") from err
    except UnicodeDecodeError as err:
        raise BadInputError(
            f"{path}: a config is YAML text in UTF-8, this is not ({err})."
        ) from err
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        reason = getattr(err, "strerror", None) or err
        raise BadInputError(f"{path}: cannot be read ({reason}).") from err
    data = _parse(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise BadInputError(
            f"{path}: a config is a mapping of keys to values, this is {_show(data)}."
        )
    return data


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInputError(f"{where}: not valid YAML ({err.problem}{place}).") from err
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
        TypeError,
        AttributeError,
    ) as err:
        # Not YAML's own: impossible dates, numbers too long, unhashable keys.
        reason = " ".join(str(err).split()) or type(err).__name__
        raise BadInputError(f"{where}: not valid YAML ({reason}).") from err


def _override(data: dict[str, Any], text: str) -> str:
    """Writes one `key=value` into `data`; returns the key."""
    key, equals, value = text.partition("=")
    key = key.strip()
    # Sections are one level deep, so what follows the first dot may hold further ones.
    section, dot, name = key.partition(".")
    if not equals or not section or (dot and not name):
        raise BadInputError(
            f"command line: {text!r} is not a setting; expected key=value, like seed=1 "
            "or qd.bins=10."
        )
    parsed = _parse(value, f"command line: value of {key}")
    if not dot:
        data[section] = parsed
        return key
    path = [section, name]
    first, dot, last = name.rpartition(".")
    # `task_settings` is one level deeper; a task may be an import path with dots.
    if section == "task_settings" and dot and ":" not in last:
        path = [section, first, last]
    for place, part in enumerate(path[:-1], 1):
        inner = data.get(part)
        if inner is not None and not isinstance(inner, dict):
            above = ".".join(path[:place])
            raise BadInputError(
                f"command line: {key} cannot be set because {above} is {_show(inner)} "
                "and not a section."
            )
        data[part] = dict(inner or {})
        data = data[part]
    data[path[-1]] = parsed
    return key


def _where(path: str | pathlib.Path, overridden: Sequence[str], error: Any) -> str:
    """Which of the two sources a wrong value came from."""
    loc = [str(part) for part in error["loc"]]
    for key in overridden:
        parts = key.split(".", 1)
        if loc[: len(parts)] == parts:
            return "command line"
    if error["type"] == "value_error" and overridden:  # a check across several keys
        return f"{path} and command line"
    return str(path)


def _fields(model: type[pydantic.BaseModel]) -> dict[str, pydantic.fields.FieldInfo]:
    """The fields by the names they have in YAML."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def _sentence(
    model: type[pydantic.BaseModel], data: Mapping[str, Any], error: Any
) -> str:
    """What is wrong, in one sentence: key, value given, what is allowed."""
    if error["type"] == "value_error":  # written by one of our own validators
        return str(error["ctx"]["error"])
    if error["loc"][-1] == "[key]":
        where = ".".join(str(part) for part in error["loc"][:-1])
        return f"{where} is not a name; expected keys that are text."
    # Walk from the whole config to the innermost value that has a name of its own.
    annotation, metadata, value, key = model, (), data, ""
    for part in error["loc"]:
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if _is_model(annotation):
            fields = _fields(annotation)
            if part not in fields:
                return _unknown(f"{key}{part}", str(part), fields)
            annotation, metadata = fields[part].annotation, fields[part].metadata
            key = f"{key}{part}."
        elif origin is Mapping:
            annotation, metadata, key = args[1], (), f"{key}{part}."
        elif origin is tuple and isinstance(part, int):
            annotation, metadata, key = args[0], (), f"{key[:-1]}[{part}]."
        else:
            break  # the branches of a union have no names a user knows
        missing = error["type"] == "missing" and part == error["loc"][-1]
        # A key that is no text is given as one here.
        odd_key = isinstance(value, dict) and part not in value
        value = None if missing else error["input"] if odd_key else value[part]
    allowed = describe(annotation, metadata)
    if error["type"] == "missing":
        return f"{key[:-1]} is missing; expected {allowed}."
    return f"{key[:-1]} is {_show(value)}; expected {allowed}."


def _unknown(key: str, name: str, fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(fields), n=1)
    known = f"known are {', '.join(fields)}"
    if not near:
        return f"{key} is not a known key; {known}."
    return (
        f"{key} is not a known key; did you mean {key.removesuffix(name)}{near[0]} "
        f"({known})?"
    )


def _show(value: Any) -> str:
    """A value as YAML would write it on one short line."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    text = _short.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a setting may be, in words, from its type and its bounds."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return describe(args[0], (*args[1:], *metadata))
    if origin is typing.Literal:
        return " or ".join(_show(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(arg, metadata) for arg in args)
    if annotation is type(None):
        return "nothing"
    if _is_model(annotation):
        return f"a section with {', '.join(_fields(annotation))}"
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"a list of {_count(metadata)}values, each {describe(args[0])}"
        return f"a list of {len(args)} values, each {describe(args[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping of names to values, each {describe(args[1])}"
    word = _TYPE_WORDS.get(annotation, str(annotation))
    return word if annotation is str else f"{word} {_bounds(metadata)}".rstrip()


def _flat(metadata: Sequence[Any]) -> list[Any]:
    """Constraints, with those inside a pydantic `FieldInfo` taken out of it."""
    flat: list[Any] = []
    for item in metadata:
        flat.extend(getattr(item, "metadata", [item]))
    return flat


def _bounds(metadata: Sequence[Any]) -> str:
    """The interval a number may be in, in words."""
    flat = _flat(metadata)
    low = next((m.ge for m in flat if isinstance(m, annotated_types.Ge)), None)
    above = next((m.gt for m in flat if isinstance(m, annotated_types.Gt)), None)
    high = next((m.le for m in flat if isinstance(m, annotated_types.Le)), None)
    if low is not None and high is not None:
        return f"from {low} to {high}"
    words = [f"of at least {low}"] if low is not None else []
    words += [f"above {above}"] if above is not None else []
    words += [f"at most {high}"] if high is not None else []
    return " and ".join(words)


def _count(metadata: Sequence[Any]) -> str:
    least = most = None
    for item in _flat(metadata):
        if isinstance(item, annotated_types.MinLen):
            least = item.min_length
        elif isinstance(item, annotated_types.MaxLen):
            most = item.max_length
    if least is not None and most is not None:
        return f"{least} to {most} "
    return f"at least {least} " if least else ""
