"""Rotary position embedding with every scaling that `transformers` has for Llama.

    x' = g (x cos(p f) + rotate_half(x) sin(p f))   at position p, frequencies f

`g` is 1 but for yarn and longrope. For dynamic and longrope, `f` depends on the length
of the sequence: one forward pass turns all positions of a row by the frequencies of
that row's length. As in transformers, keys in a cache keep the frequencies of the
length at which they were computed, so beyond the original context a sequence that is
extended differs from one that is computed whole; `transformers`' `generate` does the
same. In one way we differ: there a batch takes the frequencies of its longest row,
here each row takes its own, so that its numbers do not depend on its neighbours.

Source: RoFormer (arXiv 2104.09864); yarn (arXiv 2309.00071); longrope (arXiv
2402.13753); all as in transformers' `modeling_rope_utils`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.models.llama.config import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Rotary:
    """The frequencies of one model; hashable.

    Attributes:
      frequencies: radians per position of each pair of channels, `head_dim // 2`.
      attention_factor: what cosines and sines are multiplied by (`g`).
      context: tokens up to which `frequencies` hold; None for any length.
      long_frequencies: those of longer sequences (longrope).
      growth: factor by which the context of longer sequences is stretched (dynamic).
    """

    frequencies: tuple[float, ...]
    attention_factor: float = 1.0
    context: int | None = None
    long_frequencies: tuple[float, ...] | None = None
    growth: float | None = None

    def rotation(
        self, positions: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Cosines and sines of the angles at given positions, times `g`.

        Args:
          positions: int32 `[B, L]`.
          lengths: int32 `[B]`, tokens of each row's sequence, or `[B, L]`, of each
            token's; looked at only where the frequencies depend on it.

        Returns:
          Two float32 arrays `[B, L, 1, head_dim]`, the axis of heads being broadcast.
        """
        frequencies = self._at(lengths.reshape(lengths.shape[0], -1, 1))
        angles = positions[..., None].astype(jnp.float32) * frequencies
        angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        if self.attention_factor == 1.0:
            return cos, sin
        return cos * self.attention_factor, sin * self.attention_factor

    def _at(self, lengths: jax.Array) -> jax.Array:
        """`[half]`, or `[B, 1 or L, half]` for lengths `[B, 1 or L, 1]`."""
        usual = jnp.asarray(self.frequencies, jnp.float32)
        if self.context is None:
            return usual
        if self.long_frequencies is not None:
            longer = jnp.asarray(self.long_frequencies, jnp.float32)
        else:
            longer = self._stretched(usual, lengths)
        return jnp.where(lengths > self.context, longer, usual)

    def _stretched(self, usual: jax.Array, lengths: jax.Array) -> jax.Array:
        """Dynamic NTK: the base period grows with the length.

        `1 / (base r^e)^p = f r^(-e p)`: this form loses less to float32.
        """
        dim = 2 * len(self.frequencies)
        powers = np.arange(0, dim, 2, dtype=np.float32) / (dim - 2)
        share = jnp.maximum(lengths, self.context).astype(jnp.float32) / self.context
        ratio = self.growth * share - (self.growth - 1.0)
        return usual * jnp.exp(-powers * jnp.log(ratio))


def make_rotary(config: LlamaConfig) -> Rotary:
    """The frequencies that a model's config asks for.

    Args:
      config: gives `head_dim`, `rope_theta`, `rope_scaling` and, for some kinds,
        `max_position_embeddings`; it has been checked by `rope_settings`.

    Returns:
      The frequencies.
    """
    powers = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    periods = (np.float32(config.rope_theta) ** powers).astype(np.float32)
    plain = np.float32(1.0) / periods
    scaling = config.rope_scaling
    kind = "default" if scaling is None else scaling["rope_type"]
    match kind:
        case "linear":
            return Rotary(_tuple(plain / np.float32(scaling["factor"])))
        case "proportional":
            return Rotary(_tuple(_proportional(plain, scaling)))
        case "llama3":
            return Rotary(_tuple(_llama3(plain, scaling)))
        case "yarn":
            return _yarn(config, periods, scaling)
        case "longrope":
            return _longrope(config, periods, scaling)
        case "dynamic":
            return Rotary(
                _tuple(plain),
                context=config.max_position_embeddings,
                growth=float(scaling["factor"]),
            )
    return Rotary(_tuple(plain))


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns queries or keys to their positions.

    Args:
      x: `[B, L, heads, head_dim]`.
      cos: float32 `[B, L, 1, head_dim]`, from `Rotary.rotation`.
      sin: as `cos`.

    Returns:
      Like `x`, in its dtype.
    """
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return x * cos.astype(x.dtype) + turned * sin.astype(x.dtype)


def _tuple(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float32).tolist())


def _llama3(plain: np.ndarray, scaling: Mapping[str, Any]) -> np.ndarray:
    """Long wavelengths are stretched by `factor`, short ones kept, a ramp between."""
    context = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / plain
    stretched = plain / np.float32(scaling["factor"])
    ramp = (context / wavelength - low) / (high - low)
    between = (1 - ramp) * stretched + ramp * plain
    out = np.where(wavelength > context / low, stretched, between)
    return np.where(wavelength < context / high, plain, out)


def _proportional(plain: np.ndarray, scaling: Mapping[str, Any]) -> np.ndarray:
    """The first share of the channels turns, the rest stands still."""
    turning = int(scaling.get("partial_rotary_factor", 1.0) * len(plain))
    kept = np.where(np.arange(len(plain)) < turning, plain, np.float32(0.0))
    return kept / np.float32(scaling.get("factor", 1.0))


def _yarn(
    config: LlamaConfig, periods: np.ndarray, scaling: Mapping[str, Any]
) -> Rotary:
    """Slow channels are stretched by `factor`, fast ones kept, a ramp between."""
    dim, theta = config.head_dim, config.rope_theta
    context = scaling["original_max_position_embeddings"]
    factor = scaling.get("factor") or config.max_position_embeddings / context

    def channel(rotations: float) -> float:
        """The channel that turns so often within the original context."""
        turns = math.log(context / (rotations * 2 * math.pi))
        return dim * turns / (2 * math.log(theta))

    low = channel(scaling.get("beta_fast") or 32)
    high = channel(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = high + 0.001 if low == high else high
    ramp = (np.arange(dim // 2, dtype=np.float32) - low) / (high - low)
    kept = 1 - np.clip(ramp, 0, 1).astype(np.float32)
    stretched = np.float32(1.0) / (np.float32(factor) * periods)
    frequencies = stretched * (1 - kept) + kept / periods
    given = scaling.get("attention_factor")
    return Rotary(
        _tuple(frequencies),
        _yarn_attention(scaling, factor) if given is None else float(given),
    )


def _yarn_attention(scaling: Mapping[str, Any], factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    over, under = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return mscale(over) / mscale(under) if over and under else mscale(1.0)


def _longrope(
    config: LlamaConfig, periods: np.ndarray, scaling: Mapping[str, Any]
) -> Rotary:
    """One divisor per channel, another set beyond the original context."""
    context = scaling["original_max_position_embeddings"]
    factor = scaling.get("factor") or config.max_position_embeddings / context
    attention = scaling.get("attention_factor")
    if attention is None:
        attention = 1.0
        if factor > 1.0:
            attention = math.sqrt(1 + math.log(factor) / math.log(context))
    short, long = (
        np.float32(1.0) / (np.asarray(scaling[name], np.float32) * periods)
        for name in ("short_factor", "long_factor")
    )
    return Rotary(_tuple(short), float(attention), context, _tuple(long))
