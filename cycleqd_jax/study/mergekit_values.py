"""Values in configs of mergekit, read one by one and refused in one sentence."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax.errors import BadInputError, show

# Parameter -> default, of the method it belongs to. None: it must be given.
PARAMETERS: dict[str, dict[str, Any]] = {
    "linear": {"weight": None, "normalize": True},
    "task_arithmetic": {"weight": None, "normalize": False, "lambda": 1.0},
    "slerp": {"t": None},
    "ties": {"weight": None, "density": 1.0, "normalize": True, "lambda": 1.0},
    "dare_linear": {"weight": None, "density": 1.0, "normalize": False, "lambda": 1.0},
    "dare_ties": {"weight": None, "density": 1.0, "normalize": False, "lambda": 1.0},
}
OF_MODELS = ("weight", "density")
_RESCALE = {"dare_linear": True, "dare_ties": True}  # others do not
_DTYPES = ("float32", "bfloat16")


def base_of(method: str, given: str | None, base_model: str | None) -> str:
    """The model from which all were trained.

    Raises:
      BadInputError: names the place and what was expected.
    """
    base = base_model if base_model is not None else given
    if base is None or (method == "slerp" and base_model is None):
        why = "names one of the pair" if given else "is missing"
        raise BadInputError(
            f"--base-model is missing: base_model of the file {why}, but an individual "
            "is a change of the model that all were trained from; give that one."
        )
    return base


def named_experts(paths: Sequence[str], base: str) -> dict[str, str]:
    """Expert -> place; an adapter is written as base+adapter in mergekit.

    Raises:
      BadInputError: names the place and what was expected.
    """
    found: dict[str, str] = {}
    for path in paths:
        model, plus, adapter = path.partition("+")
        if plus and model != base:
            raise BadInputError(
                f"models: {path} is an adapter of another model than {base}; give one "
                "of this model."
            )
        source = adapter if plus else path
        stem = pathlib.PurePosixPath(source.partition("@")[0]).name
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", stem).lstrip("_.-")[:60] or "expert"
        unique, count = name, 2
        while unique in found:
            unique, count = f"{name}_{count}", count + 1
        found[unique] = source
    return found


def reference(value: Any, where: str) -> str | None:
    """A model's path or name, or None.

    Raises:
      BadInputError: names the place and what was expected.
    """
    if value is None or (isinstance(value, str) and value):
        return value
    raise BadInputError(
        f"{where}: is {show(value)}; expected a model's path or name as one text."
    )


def method_of(data: Mapping[str, Any], known: Sequence[str], where: str) -> str:
    """The merge method, one of those that are known.

    Raises:
      BadInputError: names the place and what was expected.
    """
    method = data.get("merge_method")
    if method not in known:
        raise BadInputError(
            f"{where}: {show(method)} has no exact form here; expected one of "
            f"{', '.join(known)}."
        )
    return method


def check_keys(where: str, data: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuses keys that are not known, `where` they are.

    Raises:
      BadInputError: names the place and what was expected.
    """
    for key in data:
        if key not in known:
            place = f"{where}.{key}" if where else str(key)
            raise BadInputError(
                f"{place}: is not understood; leave it out if the merge does not "
                "depend on it."
            )


def check_tokeniser(data: Mapping[str, Any], remarks: list[str]) -> None:
    """Refuses another tokeniser than the base's.

    Raises:
      BadInputError: names the place and what was expected.
    """
    source = data.get("tokenizer_source")
    if source not in (None, "base", data.get("base_model")):
        raise BadInputError(
            f"tokenizer_source: is {show(source)}, but an individual has the base's "
            "tokeniser and as many tokens; leave it out if all models have the same."
        )
    if data.get("chat_template") is not None:
        remarks.append("chat_template is not taken over: the base's is used.")


def dtype_of(data: Mapping[str, Any], remarks: list[str]) -> str:
    """The dtype of a run; adds remarks on what is not taken over."""
    dtype = data.get("dtype") or "bfloat16"
    if data.get("out_dtype") not in (None, dtype):
        remarks.append(f"out_dtype {data['out_dtype']} is not taken over.")
    if dtype not in _DTYPES:
        remarks.append(f"dtype {dtype} is computed as float32.")
        return "float32"
    return dtype


def check_parameters(where: str, method: str, given: Mapping[str, Any]) -> None:
    """Refuses parameters that a method does not have.

    Raises:
      BadInputError: names the place and what was expected.
    """
    for name in given:
        if name == "int8_mask":  # how mergekit keeps its masks
            continue
        if name == "rescale" and given[name] == _RESCALE.get(method, False):
            continue
        if name not in PARAMETERS[method]:
            raise BadInputError(
                f"{where}.{name}: {method} has no exact form here with it; known are "
                f"{', '.join(PARAMETERS[method])}."
            )


def parameter(
    name: str, method: str, where: str, *levels: Mapping[str, Any]
) -> float | bool:
    """The value of a parameter at the first level that has it, else its default.

    Raises:
      BadInputError: names the place and what was expected.
    """
    default = PARAMETERS[method][name]
    value = next((own[name] for own in levels if name in own), default)
    if value is None:
        raise BadInputError(f"{where}: {name} is missing; {method} needs it.")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        only = value[0]  # a list of filters with one that takes everything
        value = only.get("value") if only.get("filter") in (None, "*") else value
    expected, kinds = "a number", (int, float)
    if isinstance(default, bool):
        expected, kinds = "true or false", (bool,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds[0] is int):
        raise BadInputError(
            f"{where}: {name} is {show(value)}; expected {expected} for all layers and "
            "matrices."
        )
    return value if isinstance(value, bool) else float(value)


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """The value, if it is a mapping.

    Raises:
      BadInputError: names the place and what was expected.
    """
    if not isinstance(value, Mapping):
        raise BadInputError(f"{where}: is {show(value)}; expected a mapping.")
    return value
