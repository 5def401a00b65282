"""The settings of the basis."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from cycleqd_jax.files import Section, Text, Whole


class BasisSettings(Section):
    """Settings of the step from experts to singular directions.

    Attributes:
      rank: directions kept per matrix and expert; "full" keeps each expert's own.
      host_below: a dense task vector of a matrix with a side shorter than this is
        decomposed by LAPACK in float64 on the host, which is exact and slow. Larger
        ones are decomposed in float32 on the accelerator: to a low rank in a random
        subspace, else through the smaller Gram matrix (`merging.device_svd`).
      residual: what happens to the part that a smaller rank cuts off: "drop", or "keep"
        it as a dense matrix that every individual scales by the expert's scalar.
      conditioning: applied to task vectors before the SVD: "regmean" by the inputs of
        linear layers on `train` problems, "data_free" by the task vectors themselves
        (`merging.conditioning`).
      conditioning_ridge: added to the Gram matrices, in units of their mean diagonal.
      conditioning_shrinkage: factor of the Gram matrices' off-diagonal entries.
      conditioning_problems: `train` problems per task whose prompts and answers give
        the inputs of "regmean".
      conditioning_tasks: expert that belongs to no task -> name of the task whose
        problems give its inputs of "regmean".
      keep: whether the basis is kept in the user's cache folder, for other runs of the
        same experts.
    """

    rank: Literal["full"] | Whole = "full"
    host_below: Whole = 1024
    residual: Literal["drop", "keep"] = "drop"
    conditioning: Literal["none", "regmean", "data_free"] = "none"
    conditioning_ridge: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    conditioning_shrinkage: Annotated[float, Field(ge=0, le=1)] = 1.0
    conditioning_problems: Whole = 50
    conditioning_tasks: Mapping[Text, Text] = Field(default_factory=dict)
    keep: bool = True
