"""Checks that experts fit the base model that they are to be merged with."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError

_LARGEST = float(np.finfo(np.float32).max) ** 0.5


def checked_names(
    experts: Sequence[Any], names: Sequence[str] | None
) -> tuple[str, ...]:
    """The experts' names, by default "0", "1", ...

    Raises:
      BadInputError: there are no experts, or not as many different names.
    """
    if not experts:
        raise BadInputError("experts: at least one expert is needed, but none came.")
    if names is None:
        return tuple(str(k) for k in range(len(experts)))
    if len(names) != len(experts) or len(set(names)) != len(names):
        raise BadInputError(
            f"experts: {len(experts)} different names are needed, but the names are "
            f"{list(names)}."
        )
    return tuple(names)


def check_parameters(
    base: Collection[str],
    factors: Collection[str] | None,
    weights: Collection[str],
    expert_name: str,
) -> None:
    """Refuses parameters that the base lacks, and a full expert that lacks some.

    Args:
      base: names of the base's parameters.
      factors: names of the matrices with LoRA factors; None for a full expert.
      weights: names of the parameters that the expert replaces.
      expert_name: for messages.

    Raises:
      BadInputError: names the first parameter.
      TypeError: the expert is neither a LoRA nor a full expert.
    """
    if factors is None and not weights:
        raise TypeError(
            f"{expert_name}: expected an expert with `factors` or `weights`, but it "
            "has neither."
        )
    unknown = sorted((set(factors or ()) | set(weights)) - set(base))
    if unknown:
        raise BadInputError(
            f"{expert_name}: the base model has no parameter {unknown[0]} "
            f"({len(unknown)} such); the expert was made from another base model."
        )
    missing = sorted(set(base) - set(weights))
    if factors is None and missing:
        raise BadInputError(
            f"{expert_name}: the parameter {missing[0]} of the base model is missing "
            f"({len(missing)} such); a full expert needs all of them."
        )


def check_shape(
    got: tuple[int, ...], expected: tuple[int, ...], name: str, expert_name: str
) -> None:
    """Refuses a parameter of another shape than the base's."""
    if got != expected:
        raise BadInputError(
            f"{expert_name}: {name} should have shape {list(expected)} as in the base "
            f"model, but has {list(got)}; the expert was made from another base model."
        )


def check_size(norm: float, name: str, expert_name: str) -> None:
    """Refuses a task vector whose squared norm, its energy, is beyond float32."""
    if not norm < _LARGEST:
        raise BadInputError(
            f"{expert_name}: what it adds to {name} is beyond the range of float32; "
            "its training diverged, or the lora_alpha of its adapter is wrong."
        )
