"""Data sets of images: examples by split, a measure and a prompt."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.segmentation.measures import Measure
from cycleqd_jax.tasks.segmentation.prompts import PromptKind


@dataclasses.dataclass(frozen=True)
class Example:
    """One image and the truth about it.

    Attributes:
      image: uint8 [h, w, 3].
      mask: bool [h, w].
    """

    image: np.ndarray
    mask: np.ndarray


class DataSet(Protocol):
    """Images with masks, in disjoint splits.

    Attributes:
      name: also the first part of every example's id.
      measure: that scores a mask; a split's score is its mean.
      prompt: what the model is told about every image.
      fingerprint: hex hash of everything that decides the examples.
    """

    name: str
    measure: Measure
    prompt: PromptKind
    fingerprint: str

    def ids(self, split: Split) -> Sequence[str]:
        """The examples of one split, in a fixed order; a longer one begins with it."""
        ...

    def example(self, id: str) -> Example:
        """Makes or reads one example.

        Raises:
          BadInputError: there is no such example, or its files cannot be read.
        """
        ...
