"""YAML that is read strictly.

Keys given twice are errors, and `1e-3` is a number. What lies in a bucket is read from
its URL.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.files import remote, shipped


class _Loader(yaml.SafeLoader):
    """Safe YAML; keys given twice are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Builds one mapping after checking its keys."""
        seen: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                problem = f"the key {show(key)} is given twice"
                raise yaml.constructor.ConstructorError(
                    None, None, problem, key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Writes YAML that `_Loader` reads back unchanged."""


for _class in (_Loader, _Dumper):  # PyYAML takes 1e-3 for a string, as YAML 1.1 did
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def read_mapping(path: str | pathlib.Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
      BadInputError: there is none, or it is not YAML.
    """
    try:
        text = _read(str(path)).decode("utf-8")
    except BadInputError:
        raise
    except FileNotFoundError as err:
        raise BadInputError(f"{path}: there is no such config file.") from err
    except UnicodeDecodeError as err:
        raise BadInputError(
            f"{path}: a config is YAML text in UTF-8, this is not ({err})."
        ) from err
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        reason = getattr(err, "strerror", None) or err
        raise BadInputError(f"{path}: cannot be read ({reason}).") from err
    data = parse_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise BadInputError(
            f"{path}: a config is a mapping of keys to values, this is {show(data)}."
        )
    return data


def _read(path: str) -> bytes:
    return remote.read(path) if remote.is_url(path) else shipped.find(path).read_bytes()


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Args:
      text: the text.
      where: it came from, for errors.

    Raises:
      BadInputError: it is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInputError(f"{where}: not valid YAML ({err.problem}{place}).") from err
    # Not YAML's own: impossible dates, numbers too long, unhashable keys.
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
        TypeError,
        AttributeError,
    ) as err:
        reason = " ".join(str(err).split()) or type(err).__name__
        raise BadInputError(f"{where}: not valid YAML ({reason}).") from err


def dump_yaml(data: Mapping[str, Any]) -> str:
    """YAML text of plain values, in their order; `parse_yaml` gives them back."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000
    )
