"""Masks from the model's square back to the size of the original image."""

import functools

import numpy as np


def input_size(original: tuple[int, int], image_size: int) -> tuple[int, int]:
    """The size to which an image is scaled before it is padded to a square.

    Args:
      original: height and width, in pixels.
      image_size: side of the square, in pixels.

    Returns:
      Height and width, at least one pixel; the longer side is `image_size`.
    """
    scale = image_size / max(original)
    height, width = (max(int(side * scale + 0.5), 1) for side in original)
    return height, width


def to_original(
    logits: np.ndarray, original: tuple[int, int], image_size: int
) -> np.ndarray:
    """Resizes logits of masks as `SamProcessor.post_process_masks` does.

    They are resized to the model's square, its padding is cut off and the rest resized
    to the original image, bilinearly between the centres of pixels. A mask is where
    they are above zero.

    Args:
      logits: `[..., side, side]`, NumPy or JAX.
      original: height and width of the original image, in pixels.
      image_size: side of the model's square input, in pixels.

    Returns:
      `[..., height, width]`.
    """
    inside = input_size(original, image_size)
    down, across = (
        axis_matrix(logits.shape[-1], image_size, inside[i], original[i])
        for i in range(2)
    )
    return down @ logits @ across.T


@functools.lru_cache(maxsize=256)
def axis_matrix(side: int, padded: int, inside: int, original: int) -> np.ndarray:
    """The whole resize along one axis as one matrix, float32 `[original, side]`.

    Args:
      side: pixels of the mask.
      padded: pixels of the model's input.
      inside: those of them that are not padding.
      original: pixels of the original image.
    """
    matrix = _bilinear(inside, original) @ _bilinear(side, padded)[:inside]
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def _bilinear(before: int, after: int) -> np.ndarray:
    """Bilinear interpolation between the centres of pixels, `[after, before]`."""
    places = (np.arange(after) + 0.5) * before / after - 0.5
    places = np.clip(places, 0, before - 1)
    left = np.minimum(places.astype(int), max(before - 2, 0))
    share, rows = places - left, np.arange(after)
    matrix = np.zeros((after, before))
    matrix[rows, left] += 1 - share
    matrix[rows, np.minimum(left + 1, before - 1)] += share
    return matrix
