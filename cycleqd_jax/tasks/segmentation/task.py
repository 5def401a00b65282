"""A data set of images as a task: its problems are images, its verdicts shares."""

from collections.abc import Sequence

import numpy as np

from cycleqd_jax.tasks.base import Problem, Split
from cycleqd_jax.tasks.segmentation.base import DataSet, Example
from cycleqd_jax.tasks.segmentation.measures import MEASURES, Measure
from cycleqd_jax.tasks.segmentation.prompts import PromptKind


class ImageTask:
    """A data set as one skill; evaluated by `evaluation.images`, without a dialogue.

    Attributes:
      data: the data set.
      name: of the data set, and of the archive.
      measure: that scores a mask.
      prompt: what the model is told about every image.
      fingerprint: of the data set.
      examples_from: class of the data set, whose source decides examples.
    """

    free_options = ("data",)  # a place; names and sizes of its files are hashed

    def __init__(self, data: DataSet):
        """Wraps a data set."""
        self.data = data
        self._problems: dict[Split, tuple[Problem, ...]] = {}
        self.name, self.fingerprint = data.name, data.fingerprint
        self.measure: Measure = data.measure
        self.prompt: PromptKind = data.prompt
        self.examples_from = type(data)

    def problems(self, split: Split) -> Sequence[Problem]:
        """The images of one split, in a fixed order."""
        if split not in self._problems:
            ids = self.data.ids(split)
            self._problems[split] = tuple(Problem(id, self.prompt, None) for id in ids)
        return self._problems[split]

    def example(self, problem: Problem) -> Example:
        """The image and its mask; errors as of `DataSet.example`."""
        return self.data.example(problem.id)

    def score(self, prediction: np.ndarray, mask: np.ndarray) -> float:
        """The measure of one image; arguments as of `measures.structure_measure`."""
        return MEASURES[self.measure](prediction, mask)
