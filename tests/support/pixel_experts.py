"""Small experts: a linear rule over each pixel's surroundings, fitted to one family."""

import numpy as np
from scipy import ndimage

from cycleqd_jax.tasks.segmentation.measures import jaccard_index

_THRESHOLDS = np.arange(0.05, 0.8, 0.05)


def features(image: np.ndarray) -> np.ndarray:
    """Colours of the surroundings without the image's own mean, and their spread.

    Args:
      image: uint8 [h, w, 3].

    Returns:
      float64 [h * w, 37].
    """
    image = image / 255
    mean = [ndimage.uniform_filter(image, (w, w, 1)) for w in (3, 5, 7, 13, 25)]
    square = ndimage.uniform_filter(image**2, (7, 7, 1))
    spread = np.sqrt(np.maximum(square - mean[2] ** 2, 0))
    colours = np.concatenate([image, mean[1], *mean[3:]], -1)
    colours = colours - np.tile(image.mean((0, 1)), 4)
    all_ = np.concatenate([colours, np.abs(mean[0] - image), spread], -1)
    all_ = all_.reshape(-1, all_.shape[-1])
    return np.concatenate([all_, all_**2, np.ones((len(all_), 1))], 1)


def fit(examples) -> tuple[np.ndarray, float]:
    """Weights and threshold of ridge regression on the masks."""
    inputs = [features(e.image) for e in examples]
    x = np.concatenate(inputs)
    y = np.concatenate([e.mask.ravel() for e in examples]).astype(float)
    weights = np.linalg.solve(x.T @ x + 1e-3 * np.eye(x.shape[1]), x.T @ y)

    def score(threshold):
        return np.mean([
            jaccard_index((i @ weights > threshold).reshape(e.mask.shape), e.mask)
            for i, e in zip(inputs, examples, strict=True)
        ])  # fmt: skip

    return weights, max(_THRESHOLDS, key=score)


def mean_jaccard(expert: tuple[np.ndarray, float], examples) -> float:
    """The expert's score."""
    weights, threshold = expert
    found = [(features(e.image) @ weights > threshold) for e in examples]
    pairs = zip(found, examples, strict=True)
    return float(np.mean([jaccard_index(f.reshape(e.mask.shape), e.mask)
                          for f, e in pairs]))  # fmt: skip
