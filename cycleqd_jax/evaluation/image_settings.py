"""The settings of the evaluator of segmentation models."""

from typing import Literal

from cycleqd_jax.files import Section, Whole


class ImagesSettings(Section):
    """Sizes of a call, which are also its program's static sizes.

    Attributes:
      per_call: images in one call; the last call is filled up.
      mode: "factored" evaluates a batch of individuals in one call, "materialised" one
        at a time with weights of its own, "auto" decides from sizes.
    """

    per_call: Whole = 16
    mode: Literal["auto", "factored", "materialised"] = "auto"
