"""Images and masks: read from files, and fitted into a model's square.

Files are read with Pillow, which is installed with matplotlib.
"""

import os
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import reason

MEAN = (0.485, 0.456, 0.406)  # of ImageNet: SAM's normalisation, per channel of [0, 1]
STD = (0.229, 0.224, 0.225)

_THRESHOLD = 128 / 255  # of the full scale; a mask is foreground above it
_LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)
_SIXTEEN = 65535


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image as RGB.

    Its EXIF rotation is applied, grey and palette become RGB, 16 bits become 8,
    transparency is dropped, and of several frames the first is taken.

    Returns:
      uint8 [h, w, 3].

    Raises:
      BadInputError: the file is missing, damaged or no image of integers.
    """
    image, _ = _open(path)
    if _is_deep(image):
        grey = np.rint(_deep(image, path) / (_SIXTEEN / 255)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB"))


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a mask.

    Foreground is what is brighter than 128 of 255 (of 16 bits: the same share). Two
    kinds of lossless files are labels instead: where grey values are 0 and one other,
    the other is foreground, be it 1 or 38; in coloured ones all but black is.

    Returns:
      bool [h, w].

    Raises:
      BadInputError: the file is missing, damaged or no image of integers.
    """
    image, file_format = _open(path)
    lossless, colours = file_format in _LOSSLESS, None
    if _is_deep(image):
        grey, full = _deep(image, path), _SIXTEEN
    else:
        colours, full = np.asarray(image.convert("RGB")), 255
        grey = np.asarray(image.convert("RGB").convert("L"))
    if lossless:
        if colours is not None and (colours != colours[..., :1]).any():
            return colours.any(axis=-1)
        foreground = grey[grey > 0]
        if not foreground.size or (foreground == foreground[0]).all():
            return grey > 0
    return grey > _THRESHOLD * full


def read_pair(
    image: str | os.PathLike[str], mask: str | os.PathLike[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Reads an image, uint8 [h, w, 3], and its mask, bool [h, w].

    Raises:
      BadInputError: one of them cannot be read, or their sizes differ.
    """
    pixels, truth = read_image(image), read_mask(mask)
    if pixels.shape[:2] != truth.shape:
        (height, width), (rows, columns) = pixels.shape[:2], truth.shape
        raise BadInputError(
            f"{mask} has {columns}x{rows} pixels but its image {image} has "
            f"{width}x{height}; a mask must have the size of its image."
        )
    return pixels, truth


def fitted_size(shape: Sequence[int], size: int) -> tuple[int, int]:
    """Height and width of an image scaled so that its longer edge has `size` pixels.

    Args:
      shape: height and width of the image.
      size: of the model's square, in pixels.
    """
    scale = size / max(shape[:2])
    height, width = (max(1, int(edge * scale + 0.5)) for edge in shape[:2])
    return height, width


def fit_image(
    image: np.ndarray,
    size: int,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> np.ndarray:
    """Scales, normalises and pads an image as `SamImageProcessor` of transformers does.

    Scaling is Pillow's bilinear filter; the padding, below and to the right, is zero
    after the normalisation.

    Args:
      image: uint8 [h, w, 3].
      size: of the model's square, in pixels.
      mean: per channel of values in [0, 1].
      std: likewise.

    Returns:
      float32 [3, size, size].
    """
    height, width = fitted_size(image.shape, size)
    if image.shape[:2] != (height, width):
        picture = Image.fromarray(image)
        image = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    scaled = image.astype(np.float32) / np.float32(255)
    fitted = np.zeros((3, size, size), np.float32)
    normal = (scaled - np.float32(mean)) / np.float32(std)
    fitted[:, :height, :width] = np.moveaxis(normal, -1, 0)
    return fitted


def fit_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Scales and pads a mask as `SamImageProcessor` of transformers does.

    A pixel is the nearest of the mask; below and to the right is background.

    Args:
      mask: bool [h, w].
      size: of the square of labels, in pixels; SAM's is a quarter of its image's.

    Returns:
      bool [size, size].
    """
    height, width = fitted_size(mask.shape, size)
    picture = Image.fromarray(mask.astype(np.uint8))
    fitted = np.zeros((size, size), bool)
    scaled = picture.resize((width, height), Image.Resampling.NEAREST)
    fitted[:height, :width] = np.asarray(scaled) > 0
    return fitted


def _open(path: str | os.PathLike[str]) -> tuple[Image.Image, str | None]:
    """The upright image, all read, and the format of its file."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image), image.format
    except FileNotFoundError as err:
        raise BadInputError(f"{path} does not exist.") from err
    except (*_DAMAGE, Image.DecompressionBombError) as err:
        raise BadInputError(
            f"{path} cannot be read as an image ({reason(err)}); get it again."
        ) from err


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _deep(image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray:
    """Values of a grey image with 16 bits, int64 [h, w]."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > _SIXTEEN:
        raise BadInputError(
            f"{path} has values that are not integers of 16 bits; save it with 8 or 16 "
            "bits per channel."
        )
    return values.astype(np.int64)
