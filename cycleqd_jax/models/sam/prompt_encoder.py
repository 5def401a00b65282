"""The prompt encoder: points, boxes and masks as embeddings.

Source: SAM (arXiv 2304.02643), appendix A; checked against `transformers`.
"""

import jax
import jax.numpy as jnp

from cycleqd_jax.models.sam.config import SHARED, SamConfig
from cycleqd_jax.models.sam.layers import Parameters, activate
from cycleqd_jax.models.segmentation import Prompts

# Labels of points beside 0 and 1: one that stands for none, and one to leave out.
NO_POINT, PADDING = -1, -10


def positions(parameters: Parameters, places: jax.Array) -> jax.Array:
    """Random Fourier features of places.

    Args:
      parameters: the weights.
      places: float32 `[B, ..., 2]`, x and y as shares of the image, 0 to 1.

    Returns:
      float32 `[B, ..., 2 * frequencies]`.
    """
    frequencies = parameters.array(SHARED).astype(jnp.float32)
    rows, _, count = frequencies.shape
    frequencies = frequencies.reshape(rows, 2, *(1,) * (places.ndim - 2), count)
    centred = 2 * places[..., None] - 1
    # Two products and no matmul, which an accelerator would round; angles are large.
    x = centred[..., 0, :] * frequencies[:, 0]
    y = centred[..., 1, :] * frequencies[:, 1]
    angles = 2 * jnp.pi * (x + y)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def image_positions(parameters: Parameters, grid: int) -> jax.Array:
    """The positions of an embedded image's tokens, `[1 or B, grid, grid, channels]`."""
    centres = (jnp.arange(grid, dtype=jnp.float32) + 0.5) / grid
    y, x = jnp.meshgrid(centres, centres, indexing="ij")
    return positions(parameters, jnp.stack([x, y], axis=-1)[None])


def encode_prompts(
    parameters: Parameters, config: SamConfig, prompts: Prompts
) -> tuple[jax.Array | None, jax.Array]:
    """Embeds prompts.

    Args:
      parameters: the weights and the additions of each row.
      config: the model's.
      prompts: see `Prompts`.

    Returns:
      Tokens `[B, P, n, channels]`, None without points and boxes; and what is added to
      the image embedding, `[1 or B, grid or 1, grid or 1, channels]`.
    """
    tokens = []
    if prompts.points is not None:
        tokens.append(_embed_points(parameters, config, prompts))
    if prompts.boxes is not None:
        tokens.append(_embed_boxes(parameters, config, prompts.boxes))
    if prompts.masks is not None:
        dense = _embed_masks(parameters, config, prompts.masks)
    else:
        dense = parameters.array("prompt_encoder.no_mask_embed.weight")[:, None]
    if not tokens:
        return None, dense
    rows = max(part.shape[0] for part in tokens)
    tokens = [jnp.broadcast_to(part, (rows, *part.shape[1:])) for part in tokens]
    return jnp.concatenate(tokens, axis=2), dense


def _embed_points(
    parameters: Parameters, config: SamConfig, prompts: Prompts
) -> jax.Array:
    points = jnp.asarray(prompts.points, jnp.float32) + 0.5  # centres of pixels
    labels = prompts.labels
    if labels is None:
        labels = jnp.ones(points.shape[:-1], jnp.int32)
    if prompts.boxes is None:  # one that stands for the missing box
        points = jnp.pad(points, ((0, 0), (0, 0), (0, 1), (0, 0)))
        labels = jnp.pad(labels, ((0, 0), (0, 0), (0, 1)), constant_values=NO_POINT)
    x = positions(parameters, points / config.image_size)
    labels = labels[..., None]
    x = jnp.where(labels == NO_POINT, _row(parameters, "not_a_point_embed"), x)
    x = jnp.where(labels == PADDING, 0.0, x)
    for label in (0, 1):
        own = _row(parameters, f"point_embed.{label}")
        x = jnp.where(labels == label, x + own, x)
    return x


def _embed_boxes(
    parameters: Parameters, config: SamConfig, boxes: jax.Array
) -> jax.Array:
    corners = jnp.asarray(boxes, jnp.float32).reshape(*boxes.shape[:2], 2, 2) + 0.5
    x = positions(parameters, corners / config.image_size)
    own = [_row(parameters, f"point_embed.{i}") for i in (2, 3)]
    return x + jnp.concatenate(own, axis=2)


def _embed_masks(
    parameters: Parameters, config: SamConfig, masks: jax.Array
) -> jax.Array:
    settings, name = config.prompt_encoder_config, "prompt_encoder.mask_embed"
    x = masks[..., None]
    for i in (1, 2):
        x = parameters.strided(x, f"{name}.conv{i}")
        x = parameters.norm(x, f"{name}.layer_norm{i}", settings.layer_norm_eps)
        x = activate(x, settings.hidden_act)
    return parameters.linear(x, f"{name}.conv3")


def _row(parameters: Parameters, name: str) -> jax.Array:
    """A table of one row, `[1 or B, 1, 1, channels]`."""
    return parameters.array(f"prompt_encoder.{name}.weight")[:, None]
