"""The mode in which individuals are evaluated: factored or materialised.

In factored form they share the base weights and the directions of the basis, in one
pass. In materialised form an individual is a set of plain weights.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.core_basis import CoreBasis
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.models.base import matrix_shape

# A factored pass costs R (m + n) / (m n) extra work. Above this share of the whole, one
# read of the base weights for all individuals no longer saves as much time.
MAX_FACTORED_OVERHEAD = 0.25


class ModeChoice(NamedTuple):
    """The mode in which individuals are evaluated, and the reason.

    Attributes:
      mode: "factored" or "materialised".
      reason: one sentence that says why.
    """

    mode: str
    reason: str


def choose_mode(
    mode: str,
    weights: Mapping[str, Any],
    basis: Basis,
    *,
    noise: bool = False,
    setting: str = "engine.mode",
) -> ModeChoice:
    """Resolves `auto`: factored where genomes have that form and the extra work is low.

    Args:
      mode: "auto", "factored" or "materialised".
      weights: of the base model; only their shapes are read.
      basis: of the genomes; only its shapes are read.
      noise: whether genomes hold Gaussian noise.
      setting: where the mode comes from.

    Raises:
      BadInputError: the mode is "factored", but these genomes have no factored form.
    """
    dense = dense_parts(basis, noise=noise)
    if mode == "factored" and dense:
        raise BadInputError(
            f"{setting} is factored, but {dense[0]}; set it to auto or materialised."
        )
    auto = _least_work(weights, basis, dense)
    if mode == "auto":
        return auto
    return ModeChoice(mode, f"{mode} mode was asked for; auto would take {auto.reason}")


def dense_parts(basis: Basis, *, noise: bool) -> list[str]:
    """The reasons why genomes have no factored form; none where they have one.

    Args:
      basis: of the genomes.
      noise: whether genomes hold Gaussian noise.
    """
    reasons = {
        "individuals in core form share no directions": isinstance(basis, CoreBasis),
        "residuals are dense": bool(basis.residuals),
        "Gaussian noise is dense": noise,
    }
    return [reason for reason, holds in reasons.items() if holds]


def _least_work(
    weights: Mapping[str, Any], basis: Basis, dense: list[str]
) -> ModeChoice:
    if dense:
        return ModeChoice("materialised", f"materialised mode: {dense[0]}.")
    shapes = {s.name: matrix_shape(weights[s.name].shape) for s in basis.layout}
    work = sum(float(np.prod(shape)) for shape in shapes.values())
    extra = sum(slot.size * sum(shapes[slot.name]) for slot in basis.layout)
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
