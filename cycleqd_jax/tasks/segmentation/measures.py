"""Measures that compare a predicted mask with the true one, for one image.

Both follow the definitions of the library PySODMetrics 1.6.2, to 1e-6. A data set's
score is the mean over its images.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from cycleqd_jax.errors import BadInputError

Measure = Literal["structure", "jaccard"]

_ALPHA = 0.5  # the weight of the object-aware half
_THRESHOLD = 128  # of masks in uint8: above is foreground
_EPS = np.spacing(1.0)


def structure_measure(prediction: np.ndarray, mask: np.ndarray) -> float:
    """S-measure: the mean of an object-aware and a region-aware similarity.

    Where the mask is empty it is 1 - mean(prediction), where it is full
    mean(prediction); below 0 it counts as 0. Where the centroid is in the last row or
    column, the empty rectangles beyond it have no weight (PySODMetrics has NaN there).

    Args:
      prediction: bool [h, w]; or float [h, w] in [0, 1], compared as it is; or uint8
        [h, w], divided by 255 and stretched to reach 0 and 1 unless it is constant.
      mask: the truth, bool [h, w]; or uint8, where more than 128 is foreground.

    Raises:
      BadInputError: shapes, dtypes or values are others.

    Source: Fan et al., "Structure-measure: A new way to evaluate foreground maps", ICCV
    2017, with alpha = 0.5.
    """
    soft, truth = _checked(prediction, mask)
    share = truth.mean()
    if share == 0:
        return float(1 - soft.mean())
    if share == 1:
        return float(soft.mean())
    objects = share * _compactness(soft[truth])
    objects += (1 - share) * _compactness(1 - soft[~truth])
    return float(max(0.0, _ALPHA * objects + (1 - _ALPHA) * _regions(soft, truth)))


def jaccard_index(prediction: np.ndarray, mask: np.ndarray) -> float:
    """Jaccard index: pixels in both masks over pixels in at least one.

    A soft prediction is foreground above 0.5. Where neither has foreground it is 0.

    Args:
      prediction: as for `structure_measure`; uint8 is stretched before the threshold.
      mask: as for `structure_measure`.

    Raises:
      BadInputError: shapes, dtypes or values are others.
    """
    soft, truth = _checked(prediction, mask)
    found = soft > 0.5
    union = np.count_nonzero(found | truth)
    return float(np.count_nonzero(found & truth) / union) if union else 0.0


MEASURES: Mapping[Measure, Callable[[np.ndarray, np.ndarray], float]] = {
    "structure": structure_measure,
    "jaccard": jaccard_index,
}


def _checked(prediction: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The prediction in float64 and the mask in bool."""
    prediction, mask = np.asarray(prediction), np.asarray(mask)
    if prediction.ndim != 2 or prediction.shape != mask.shape or not mask.size:
        raise BadInputError(
            "Expected a prediction and a mask of one shape [h, w] but they have "
            f"{list(prediction.shape)} and {list(mask.shape)}."
        )
    if mask.dtype == np.uint8:
        mask = mask > _THRESHOLD
    if mask.dtype != bool:
        raise BadInputError(f"Expected a mask in bool or uint8 but got {mask.dtype}.")
    if prediction.dtype == np.uint8:
        soft = prediction / 255
        low, high = soft.min(), soft.max()
        return ((soft - low) / (high - low) if high > low else soft), mask
    if prediction.dtype != bool and not np.issubdtype(prediction.dtype, np.floating):
        raise BadInputError(
            f"Expected a prediction in bool, uint8 or float but got {prediction.dtype}."
        )
    soft = prediction.astype(np.float64)
    if not (soft.min() >= 0 and soft.max() <= 1):  # also if it has a NaN
        raise BadInputError(
            "Expected a prediction in [0, 1] but it has values from "
            f"{soft.min():g} to {soft.max():g}; apply a sigmoid to logits."
        )
    return soft, mask


def _compactness(values: np.ndarray) -> float:
    """High where all values [n] are near 1."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPS)


def _regions(soft: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of four rectangles, weighted by their areas.

    They meet at the centroid of the foreground, whose row and column go to the left and
    upper ones.
    """
    (height, width), total = truth.shape, 0.0
    row, column = (int(c) + 1 for c in np.argwhere(truth).mean(0).round())
    for rows in (slice(0, row), slice(row, height)):
        for columns in (slice(0, column), slice(column, width)):
            part = truth[rows, columns]
            if part.size:
                total += _similarity(soft[rows, columns], part) * part.size
    return total / truth.size


def _similarity(soft: np.ndarray, truth: np.ndarray) -> float:
    """SSIM over one rectangle, without the constants that others add."""
    x, y = soft.mean(), truth.mean()
    dx, dy, free = soft - x, truth - y, truth.size - 1 + _EPS
    numerator = 4 * x * y * (dx * dy).sum() / free
    spread = ((dx**2).sum() + (dy**2).sum()) / free
    denominator = (x**2 + y**2) * spread
    if numerator != 0:
        return numerator / (denominator + _EPS)
    return 1.0 if denominator == 0 else 0.0
