"""The protocol `SegmentationModel`: segmentation models of any family."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from cycleqd_jax.models.base import Deltas, Weights, WeightsConfig


class SegmentationConfig(WeightsConfig, Protocol):
    """Sizes of one segmentation model.

    Attributes:
      image_size: side of the square input, in pixels.
      image_flops: operations that one image takes, roughly.
      image_numbers: activations of one image that are in memory at once, roughly.
    """

    image_size: int
    image_flops: int
    image_numbers: int


class Prompts(NamedTuple):
    """Points, boxes or masks that say where to segment; all None for no prompt.

    B images, P prompts per image, each of which gets masks of its own. S is the side of
    the masks that a model predicts. Places are in pixels of the model's input, x before
    y, both from the top left corner.

    Attributes:
      points: float32 `[B, P, N, 2]`.
      labels: int32 `[B, P, N]`: 1 inside, 0 outside, -1 no point, -10 padding; None for
        ones.
      boxes: float32 `[B, P, 4]`, top left and bottom right corner.
      masks: float32 `[B, S, S]`, logits of a mask for each image.
    """

    points: jax.Array | None = None
    labels: jax.Array | None = None
    boxes: jax.Array | None = None
    masks: jax.Array | None = None


NO_PROMPT = Prompts()


class SegmentationModel(Protocol):
    """A promptable segmentation model as pure functions of flat weights.

    Hashable, so it can be a static argument of `jax.jit`. Rows of `deltas` are images;
    one row is for all images, so that `jax.vmap` over the coefficients of `deltas`
    shares the base weights between individuals.

    Attributes:
      config: its sizes; `matrix_shape` says which weights have singular directions.
      dtype: of the computation and the image embeddings.
    """

    config: SegmentationConfig
    dtype: jnp.dtype

    def embed_images(
        self, weights: Weights, pixels: jax.Array, deltas: Deltas | None = None
    ) -> jax.Array:
        """Image embeddings `[B, channels, grid, grid]`.

        Args:
          weights: the flat weights.
          pixels: `[B, 3, image_size, image_size]`, normalised, padded with zeros.
          deltas: additions per row, or None.
        """
        ...

    def predict_masks(
        self,
        weights: Weights,
        embeddings: jax.Array,
        prompts: Prompts = NO_PROMPT,
        deltas: Deltas | None = None,
        *,
        multimask: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Masks of embedded images.

        Args:
          weights: the flat weights.
          embeddings: from `embed_images`.
          prompts: what to segment.
          deltas: additions per row, or None.
          multimask: several masks for an ambiguous prompt, not one. Static.

        Returns:
          Logits, float32 `[B, P, masks, S, S]`, and the predicted
          quality (IoU) of each mask, float32 `[B, P, masks]`.
        """
        ...
