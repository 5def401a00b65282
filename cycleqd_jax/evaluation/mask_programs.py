"""The compiled programs of the evaluator of images."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from cycleqd_jax.models.base import Deltas, LowRank, Weights
from cycleqd_jax.models.segmentation import Prompts, SegmentationModel


@functools.partial(jax.jit, static_argnums=(0, 1))
def population_masks(
    program: SegmentationModel,
    layout: tuple[Any, ...],
    shared: tuple[Weights, Any, Any, Any],
    own: tuple[jax.Array, jax.Array],
    pixels: jax.Array,
    prompts: Prompts,
) -> jax.Array:
    """Masks of I individuals in factored form on N images.

    Args:
      program: the model as pure functions.
      layout: of the basis.
      shared: base weights, and of the basis `u`, `v` and `deltas`.
      own: coefficients `[I, G]` and scales `[I, K]`.
      pixels: `[N, 3, image_size, image_size]`.
      prompts: one per image.

    Returns:
      Logits, float32 `[I, N, side, side]`.
    """
    weights, u, v, deltas = shared

    def individual(coefficients: jax.Array, scales: jax.Array) -> jax.Array:
        matrices = {
            slot.name: LowRank(
                u[slot.name],
                v[slot.name],
                coefficients[None, slot.offset : slot.offset + slot.size],
            )
            for slot in layout
        }
        # Without HIGHEST a GPU or TPU would multiply in TF32 or bfloat16.
        vectors = {
            name: jnp.tensordot(
                scales, delta, axes=1, precision=jax.lax.Precision.HIGHEST
            )[None]
            for name, delta in deltas.items()
        }
        return _single(program, weights, pixels, prompts, Deltas(matrices, vectors))

    return jax.vmap(individual)(*own)


@functools.partial(jax.jit, static_argnums=0)
def plain_masks(
    program: SegmentationModel, weights: Weights, pixels: jax.Array, prompts: Prompts
) -> jax.Array:
    """Masks of one model on N images, logits, float32 `[N, side, side]`."""
    return _single(program, weights, pixels, prompts, None)


def _single(program, weights, pixels, prompts, deltas) -> jax.Array:
    embedded = program.embed_images(weights, pixels, deltas)
    return program.predict_masks(weights, embedded, prompts, deltas)[0][:, 0, 0]
