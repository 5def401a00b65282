"""Settings that are laid over others: presets, and `key=value` of a command line."""

from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from cycleqd_jax.errors import BadInputError, explain, show
from cycleqd_jax.files import shipped
from cycleqd_jax.files.fields import Model
from cycleqd_jax.files.remote import is_url
from cycleqd_jax.files.yaml import parse_yaml, read_mapping


def nested(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings with `section.key` as a mapping in a mapping.

    Raises:
      BadInputError: a key ends with its dot.
    """
    found: dict[str, Any] = {}
    for key, value in given.items():
        section, dot, inner = key.partition(".")
        if not dot or ":" in section:  # a task may be an import path
            value = {key: value}
        elif not inner:
            raise BadInputError(f"{where}: {key!r} is not a setting; expected qd.bins.")
        else:
            value = {section: {inner: value}}
        found = laid_over(found, value)
    return found


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of which those above win; sections are merged, values replaced."""
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = {**found[key], **value} if both else value
    return found


def from_overrides(overrides: Sequence[str], cls: type[Model]) -> Model:
    """Settings of a command without a config file.

    Args:
      overrides: `key=value` each; the key is a top-level name or `section.name`, the
        value is YAML. Later ones win.
      cls: what they are.

    Raises:
      BadInputError: one sentence: the key, what is wrong.
    """
    data: dict[str, Any] = {}
    for text in overrides:
        override(data, text)
    try:
        return cls.model_validate(data)
    except pydantic.ValidationError as err:
        sentence = explain(err, data, cls)[1]
        raise BadInputError(f"command line: {sentence}") from err


def with_preset(own: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Lays settings over those of the file that their key `preset` names, if any.

    Args:
      own: settings of a run.
      where: the config file that they came from. A preset that the current working
        directory does not have is beside it.

    Returns:
      Settings without that key; sections are merged key by key.

    Raises:
      BadInputError: the file is missing, or has a preset itself.
    """
    if "preset" not in own:
        return own
    rest = dict(own)
    preset = rest.pop("preset")
    if preset is None:
        return rest
    if not isinstance(preset, str):
        raise BadInputError(f"{where}: preset is {show(preset)}; expected a file.")
    preset = _found_from(where, preset)
    below = nested(read_mapping(preset), preset)
    if "preset" in below:
        raise BadInputError(f"{preset}: has a preset itself; write its settings here.")
    return laid_over(below, rest)


def _found_from(config: str, preset: str) -> str:
    """The path of a preset: as it is, or else from the folder of the config file."""
    path = shipped.find(preset)
    if is_url(preset) or path.is_absolute() or path.exists():
        return preset
    folder, slash, _ = config.rpartition("/")
    beside = f"{folder}{slash}{preset}"
    return beside if is_url(config) or shipped.find(beside).exists() else preset


def override(data: dict[str, Any], text: str) -> tuple[str, ...]:
    """Writes one `key=value` into `data`; returns the key, split at its sections."""
    key, equals, value = (part.strip() for part in text.partition("="))
    # Sections are one level deep, so what follows the first dot may have further ones.
    section, dot, name = key.partition(".")
    if not equals or not section or (dot and not name):
        raise BadInputError(
            f"command line: {text!r} is not a setting; expected key=value, like seed=1 "
            "or qd.bins=10."
        )
    path = (section, name) if dot else (section,)
    first, dot, last = name.rpartition(".")
    # `task_settings` is one level deeper; a task may be an import path with dots.
    if section == "task_settings" and dot and ":" not in last:
        path = (section, first, last)
    parsed = parse_yaml(value, f"command line: value of {key}")
    for place, part in enumerate(path[:-1], 1):
        inner = data.get(part)
        if inner is not None and not isinstance(inner, dict):
            above = ".".join(path[:place])
            raise BadInputError(
                f"command line: {key} cannot be set because {above} is {show(inner)} "
                "and not a section."
            )
        data[part] = dict(inner or {})
        data = data[part]
    data[path[-1]] = parsed
    return path
