"""The settings of evaluators on a Ray cluster: the section `ray` of a config."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from cycleqd_jax.files import Section, Text, Whole


class RaySettings(Section):
    """The cluster that `evaluator: ray` works on.

    Attributes:
      address: "auto" finds the cluster that this host is part of; else host and port of
        a cluster's head.
      evaluators: the most at a time; "auto" takes as many as there is room for.
      resources: Ray's name of a resource -> how much of it one evaluator takes of its
        host, like `{TPU: 4}` or `{GPU: 1, CPU: 8}`.
      patience: seconds that a run waits while there is no evaluator at all; then it
        stops, and can be resumed.
    """

    address: Text = "auto"
    evaluators: Literal["auto"] | Whole = "auto"
    resources: Annotated[
        Mapping[Text, Annotated[float, Field(gt=0, strict=False)]],
        Field(min_length=1),
    ] = {"CPU": 1}
    patience: Whole = 600
