"""The settings of the basis."""

from typing import Literal

from cycleqd_jax.files import Section, Whole


class BasisSettings(Section):
    """Settings of the step from experts to singular directions.

    Attributes:
      rank: directions kept per matrix and expert; "full" keeps each expert's own.
      residual: what happens to the part that a smaller rank cuts off: "drop", or "keep"
        it as a dense matrix that every individual scales by the expert's scalar.
      conditioning: applied to task vectors before the SVD.
      keep: whether the basis is kept in the user's cache folder, for other runs of the
        same experts.
    """

    rank: Literal["full"] | Whole = "full"
    residual: Literal["drop", "keep"] = "drop"
    conditioning: Literal["none"] = "none"
    keep: bool = True
