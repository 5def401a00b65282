"""Examples as arrays of one shape, fitted into a model's square."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cycleqd_jax.tasks.segmentation.base import DataSet
from cycleqd_jax.tasks.segmentation.images import fit_image, fit_mask, fitted_size
from cycleqd_jax.tasks.segmentation.prompts import make_prompt


class Fitted(NamedTuple):
    """N images with their masks and prompts, in pixels of the model's square.

    Attributes:
      pixels: float32 `[N, 3, size, size]`, normalised.
      labels: bool `[N, mask_size, mask_size]`; padding is background.
      points: float32 `[N, 1, 1, 2]`; None unless the prompt is a point.
      point_labels: int32 `[N, 1, 1]`; likewise.
      boxes: float32 `[N, 1, 4]`; None unless the prompt is a box.
    """

    pixels: np.ndarray
    labels: np.ndarray
    points: np.ndarray | None
    point_labels: np.ndarray | None
    boxes: np.ndarray | None


def fit_examples(
    data: DataSet, ids: Sequence[str], image_size: int, mask_size: int
) -> Fitted:
    """Draws or reads examples and fits them.

    Args:
      data: whose prompt is used.
      ids: at least one.
      image_size: of the model's square, in pixels.
      mask_size: of the square of labels, in pixels.

    Raises:
      BadInputError: an example cannot be read.
    """
    pixels, labels, prompts = [], [], []
    for id in ids:
        example = data.example(id)
        shape = example.mask.shape
        pixels.append(fit_image(example.image, image_size))
        labels.append(fit_mask(example.mask, mask_size))
        prompt = make_prompt(example.mask, data.prompt)
        prompts.append(prompt.scaled(shape, fitted_size(shape, image_size)))
    has_points, has_boxes = data.prompt == "point", data.prompt == "box"
    return Fitted(
        np.stack(pixels),
        np.stack(labels),
        np.stack([p.points for p in prompts])[:, None] if has_points else None,
        np.stack([p.labels for p in prompts])[:, None] if has_points else None,
        np.stack([p.boxes for p in prompts]) if has_boxes else None,
    )
