"""How individuals are evaluated: together in factored form, or as plain weights."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.core_basis import AnyBasis, CoreBasis

# A factored pass costs R (m + n) / (m n) extra work; above this share of the whole it
# is no longer paid back by reading the base weights once for all individuals.
MAX_FACTORED_OVERHEAD = 0.25


class ModeChoice(NamedTuple):
    """Attributes: `mode`, "factored" or "materialised", and why in one sentence."""

    mode: str
    reason: str


def choose_mode(
    mode: str, weights: Mapping[str, Any], basis: AnyBasis, *, noise: bool = False
) -> ModeChoice:
    """Resolves `auto`: by what genomes hold, else by the work that factors add.

    Args:
      mode: "auto", "factored" or "materialised".
      weights: of the base model; only shapes are looked at.
      basis: of the genomes; only shapes are looked at.
      noise: whether genomes hold Gaussian noise.

    Raises:
      BadInputError: "factored" was asked for and individuals have no such form.
    """
    reasons = {
        "individuals in core form share no directions": isinstance(basis, CoreBasis),
        "residuals are dense": bool(basis.residuals),
        "Gaussian noise is dense": noise,
    }
    dense = [reason for reason, holds in reasons.items() if holds]
    if mode == "factored" and dense:
        raise BadInputError(
            f"engine.mode is factored, but {dense[0]}; set it to auto or materialised."
        )
    if mode != "auto":
        return ModeChoice(mode, f"{mode} mode was asked for.")
    if dense:
        return ModeChoice("materialised", f"materialised mode: {dense[0]}.")
    work = sum(float(np.prod(weights[slot.name].shape)) for slot in basis.layout)
    extra = sum(slot.size * sum(weights[slot.name].shape) for slot in basis.layout)
    share = extra / max(work, 1.0)
    if share <= MAX_FACTORED_OVERHEAD:
        return ModeChoice(
            "factored",
            f"factored mode: the basis adds {share:.0%} of a pass's work, and several "
            "individuals share it.",
        )
    return ModeChoice(
        "materialised",
        f"materialised mode: the basis would add {share:.0%} of a pass's work.",
    )
