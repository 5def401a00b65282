"""Prompts for a segmentation model, made from the true mask.

A data set states its kind once: none, a box, or a point.
"""

import dataclasses
from typing import Literal

import numpy as np
from scipy import ndimage

PromptKind = Literal["none", "box", "point"]

_FOREGROUND, _NO_POINT = 1, -1  # SAM's labels of points


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Hints in pixels (x, y) of some image; their numbers depend on the kind only.

    Attributes:
      points: float32 [p, 2].
      labels: int32 [p], 1 for foreground, -1 for a point that is none.
      boxes: float32 [b, 4], left, top, right, bottom.
    """

    points: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray

    def scaled(self, shape: tuple[int, int], fitted: tuple[int, int]) -> "Prompt":
        """The same hints on a scaled image, as `SamProcessor` of transformers does.

        Args:
          shape: height and width of the image that the hints are for.
          fitted: those of the scaled image.
        """
        factors = np.float32([fitted[1] / shape[1], fitted[0] / shape[0]])
        return dataclasses.replace(
            self, points=self.points * factors, boxes=self.boxes * np.tile(factors, 2)
        )


def make_prompt(mask: np.ndarray, kind: PromptKind) -> Prompt:
    """The prompt of one image; no randomness.

    The box is that of all foreground, from the first to the last pixel; of an empty
    mask it is the whole image. The point is the foreground pixel furthest from the
    background and from the border, the first of several in reading order; an empty
    mask has a point that is none.

    Args:
      mask: the truth, bool [h, w].
      kind: of the prompt.
    """
    points, labels = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
    boxes = np.zeros((0, 4), np.float32)
    if kind == "box":
        around = mask if mask.any() else np.ones_like(mask)
        rows, columns = np.flatnonzero(around.any(1)), np.flatnonzero(around.any(0))
        boxes = np.float32([[columns[0], rows[0], columns[-1], rows[-1]]])
    elif kind == "point":
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), mask.shape)
        points = np.float32([[column, row]])
        labels = np.int32([_FOREGROUND if mask.any() else _NO_POINT])
    return Prompt(points, labels, boxes)
