"""Rotary-embedding settings in the two spellings of Hugging Face configs.

Before transformers 5 a config had `rope_theta` and an optional `rope_scaling`; since
then one dict, `rope_parameters`, holds both. Here: `(rope_theta, rope_scaling)`.
"""

import math
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError

# Needed keys per kind, as in transformers' `modeling_rope_utils`.
SCALED_ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": (
        "short_factor",
        "long_factor",
        "original_max_position_embeddings",
    ),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def rope_from_hf(
    data: Mapping[str, Any], max_position_embeddings: int, source: str
) -> tuple[float, dict[str, Any] | None]:
    """Reads the rotary settings of a parsed `config.json`, old or new spelling.

    Args:
      data: the parsed config.
      max_position_embeddings: stands in for a missing
        `original_max_position_embeddings`, as in transformers.
      source: named in error messages.

    Returns:
      The base period, and None or the scaling parameters with `rope_type` and without
      `rope_theta`.

    Raises:
      BadInputError: on an unknown kind, a missing or malformed parameter, or partial
        rotary embeddings.
    """
    given = data.get("rope_parameters") or data.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise BadInputError(
            f"{source}: rope parameters must be an object, but are {given!r}"
        )
    parameters = dict(given)
    theta = parameters.pop("rope_theta", None)
    if theta is None:
        theta = data.get("rope_theta")
    theta = 10000.0 if theta is None else theta
    old_kind = parameters.pop("type", "default")
    kind = parameters.pop("rope_type", None) or old_kind
    kind = "default" if kind is None else kind
    partial = parameters.pop(
        "partial_rotary_factor", data.get("partial_rotary_factor", 1.0)
    )
    if partial not in (None, 1, 1.0):
        raise BadInputError(
            f"{source}: partial_rotary_factor = {partial!r} is not supported; the "
            "whole head is rotated"
        )
    if isinstance(theta, bool) or not isinstance(theta, int | float):
        raise BadInputError(f"{source}: rope_theta must be a number, got {theta!r}")
    if kind == "default":
        return float(theta), None
    if not isinstance(kind, str) or kind not in SCALED_ROPE_TYPES:
        raise BadInputError(
            f"{source}: rope_type {kind!r} is not supported; known kinds are "
            f"default, {', '.join(SCALED_ROPE_TYPES)}"
        )
    if "original_max_position_embeddings" in SCALED_ROPE_TYPES[kind]:
        outside = data.get("original_max_position_embeddings")
        if outside is not None:  # transformers: the outer value wins (Phi-3 style)
            parameters["original_max_position_embeddings"] = outside
        parameters.setdefault(
            "original_max_position_embeddings", max_position_embeddings
        )
    for key in SCALED_ROPE_TYPES[kind]:
        if not _is_positive(parameters.get(key)):
            raise BadInputError(
                f"{source}: rope_type {kind!r} needs a positive {key}, got "
                f"{parameters.get(key)!r}"
            )
    return float(theta), {"rope_type": kind, **parameters}


def rope_to_hf(
    rope_theta: float, rope_scaling: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Writes rotary settings in both spellings.

    Args:
      rope_theta: base period.
      rope_scaling: None or scaling parameters with `rope_type`.

    Returns:
      `rope_parameters` for transformers 5, `rope_theta` and `rope_scaling` for older.
    """
    scaling = None if rope_scaling is None else dict(rope_scaling)
    return {
        "rope_parameters": {
            **(scaling or {"rope_type": "default"}),
            "rope_theta": rope_theta,
        },
        "rope_theta": rope_theta,
        "rope_scaling": scaling,
    }


def _is_positive(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_positive(item) for item in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0
