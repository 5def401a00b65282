"""The loss of masks: what pixels get wrong, and what the whole mask does.

Per image, of logits x at the size of the model's input, p = sigmoid(x), truth y,

    mean(BCE(x, y)) + 1 - (sum(p y) + 1) / (sum(p + y - p y) + 1) + (q - J)^2

with the quality q that the model predicts and the Jaccard index J of its mask. The
first two are the structure loss of F3Net (AAAI 2020) without its weights of pixels
near edges; the last is that of Segment Anything (arXiv 2304.02643).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.segmentation import Prompts, SegmentationModel
from cycleqd_jax.training.step import Method, Params


class ImageBatch(NamedTuple):
    """B images of one size S, each with one prompt of one kind.

    Attributes:
      pixels: float32 `[B, 3, S, S]`.
      labels: bool `[B, S, S]`.
      mask: float32 `[B]`, 1 for images, 0 for padding.
      points: float32 `[B, 1, 1, 2]`, or None.
      point_labels: int32 `[B, 1, 1]`, or None.
      boxes: float32 `[B, 1, 4]`, or None.
    """

    pixels: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    points: np.ndarray | None = None
    point_labels: np.ndarray | None = None
    boxes: np.ndarray | None = None


def image_loss(
    params: Params,
    weights: Weights,
    batch: ImageBatch,
    total: jax.Array,
    *,
    program: SegmentationModel,
    method: Method,
    recompute: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The loss and the Jaccard index of masks, as a `step.Loss`.

    Args:
      params: what is trained.
      weights: frozen.
      batch: the images.
      total: number of images that the sums are divided by.
      program: the model.
      method: how parameters become a model.
      recompute: not supported; False.
    """
    del recompute
    logits, quality = predict(params, weights, batch, program=program, method=method)
    losses, jaccard = mask_losses(logits, quality, batch.labels)
    return jnp.sum(losses * batch.mask) / total, jnp.sum(jaccard * batch.mask) / total


def predict(
    params: Params,
    weights: Weights,
    batch: ImageBatch,
    *,
    program: SegmentationModel,
    method: Method,
) -> tuple[jax.Array, jax.Array]:
    """Logits of the single mask, float32 `[B, S, S]`, and its quality `[B]`."""
    weights, deltas = method.model(params, weights)
    prompts = Prompts(batch.points, batch.point_labels, batch.boxes)
    image = program.embed_images(weights, batch.pixels, deltas)
    logits, quality = program.predict_masks(weights, image, prompts, deltas)
    shape = (logits.shape[0], *batch.pixels.shape[-2:])
    return jax.image.resize(logits[:, 0, 0], shape, "bilinear"), quality[:, 0, 0]


def mask_losses(
    logits: jax.Array, quality: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The loss of each image and the Jaccard index of its mask, float32 `[B]`.

    Args:
      logits: float32 `[B, h, w]`.
      quality: float32 `[B]`.
      labels: bool `[B, h, w]`.
    """
    axes = (1, 2)
    truth = labels.astype(jnp.float32)
    pixels = optax.sigmoid_binary_cross_entropy(logits, truth).mean(axes)
    soft = jax.nn.sigmoid(logits)
    both = jnp.sum(soft * truth, axes)
    either = jnp.sum(soft + truth - soft * truth, axes)
    found = logits > 0
    common = jnp.sum(found & labels, axes)
    jaccard = common / jnp.maximum(jnp.sum(found | labels, axes), 1)
    error = jnp.square(quality - jaccard)
    return pixels + 1 - (both + 1) / (either + 1) + error, jaccard
