"""Rotary position embedding, with the scalings that keep it a fixed set of frequencies.

    x' = x cos(p f) + rotate_half(x) sin(p f)       at position p, frequencies f

Source: RoFormer (arXiv 2104.09864); scalings as in transformers'
`modeling_rope_utils`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.config import LlamaConfig


def inverse_frequencies(config: LlamaConfig) -> np.ndarray:
    """Radians per position of each pair of channels.

    Args:
      config: gives `head_dim`, `rope_theta` and `rope_scaling`.

    Returns:
      Float32 `[head_dim // 2]`.

    Raises:
      BadInputError: if the kind of scaling is not a fixed set of frequencies.
    """
    powers = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    plain = (1.0 / np.float32(config.rope_theta) ** powers).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    kind = scaling["rope_type"]
    if kind == "linear":
        return plain / np.float32(scaling["factor"])
    if kind == "llama3":
        return _llama3(plain, scaling)
    raise BadInputError(
        f"rope_type {kind!r} is not supported by this model; it computes default, "
        "linear and llama3"
    )


def rotation(
    positions: jax.Array, frequencies: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the angles at given positions.

    Args:
      positions: int32 `[B, L]`.
      frequencies: float32 `[head_dim // 2]`.

    Returns:
      Two float32 arrays `[B, L, 1, head_dim]`, the axis of heads being broadcast.
    """
    angles = positions[..., None].astype(jnp.float32) * frequencies
    angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns queries or keys to their positions.

    Args:
      x: `[B, L, heads, head_dim]`.
      cos: float32 `[B, L, 1, head_dim]`, from `rotation`.
      sin: as `cos`.

    Returns:
      Like `x`, in its dtype.
    """
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return x * cos.astype(x.dtype) + turned * sin.astype(x.dtype)


def _llama3(plain: np.ndarray, scaling) -> np.ndarray:
    """Long wavelengths are stretched by `factor`, short ones kept, a ramp between."""
    context = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / plain
    stretched = plain / np.float32(scaling["factor"])
    ramp = (context / wavelength - low) / (high - low)
    between = (1 - ramp) * stretched + ramp * plain
    out = np.where(wavelength > context / low, stretched, between)
    return np.where(wavelength < context / high, plain, out).astype(np.float32)
