"""Rotary-embedding settings in the two spellings of Hugging Face configs.

Before transformers 5 a config had `rope_theta` and an optional `rope_scaling`; since
then one dict, `rope_parameters`, holds both. Here: `(rope_theta, rope_scaling)`.
"""

import math
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError

# Needed keys per kind, as in transformers' `modeling_rope_utils`. yarn and longrope
# take the ratio of the two context lengths for a missing factor.
SCALED_ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("original_max_position_embeddings",),
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
    "proportional": (),
}
# Keys that may be absent or null, whatever the kind.
_OPTIONAL = (
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
)


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
      BadInputError: on an unknown kind, a malformed base period, or partial rotary
        embeddings; `check_rope` sees to the rest.
    """
    # transformers: rope_scaling wins where a file has both
    given = data.get("rope_scaling") or data.get("rope_parameters") or {}
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
    partial = parameters.pop("partial_rotary_factor", None)
    partial = data.get("partial_rotary_factor") if partial is None else partial
    partial = 1.0 if partial is None else partial
    if kind == "proportional":
        parameters["partial_rotary_factor"] = partial
    elif partial != 1:
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
    return float(theta), {"rope_type": kind, **parameters}


def check_rope(scaling: Mapping[str, Any], head_dim: int, rope_theta: float) -> None:
    """Refuses scaling parameters that give no frequencies.

    Args:
      scaling: parameters with a known `rope_type`.
      head_dim: of the model.
      rope_theta: base period.

    Raises:
      BadInputError: names the kind, the key and its value.
    """
    kind = scaling["rope_type"]

    def refuse(key: str, needs: str) -> None:
        raise BadInputError(
            f"rope_type {kind!r} needs {needs} {key}, got {scaling.get(key)!r}"
        )

    needed = SCALED_ROPE_TYPES[kind]
    for key in needed:
        if key not in ("short_factor", "long_factor"):
            if not _is_positive(scaling.get(key)):
                refuse(key, "a positive")
        else:
            values = scaling.get(key)
            listed = isinstance(values, list | tuple) and len(values) == head_dim // 2
            if not listed or not all(map(_is_positive, values)):
                refuse(key, f"{head_dim // 2} positive numbers (half a head) as")
    for key in _OPTIONAL:
        if scaling.get(key) is not None and not _is_positive(scaling[key]):
            refuse(key, "a positive")
    if not isinstance(scaling.get("truncate", True), bool):
        refuse("truncate", "true or false as")
    if kind == "proportional" and not _is_positive(scaling["partial_rotary_factor"]):
        refuse("partial_rotary_factor", "a positive")
    if kind == "dynamic" and head_dim < 4:
        raise BadInputError(
            f"rope_type 'dynamic' needs a head_dim of 4 or more, got {head_dim}"
        )
    if kind == "longrope" and scaling["original_max_position_embeddings"] < 2:
        refuse("original_max_position_embeddings", "2 or more as")
    if kind == "yarn" and not rope_theta > 1:
        raise BadInputError(f"rope_type 'yarn' needs rope_theta > 1, got {rope_theta}")


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
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0
