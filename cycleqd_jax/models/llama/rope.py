"""Rotary position embedding with every scaling that `transformers` has for Llama.

    x' = g (x cos(p f) + rotate_half(x) sin(p f))   at position p, frequencies f

`g` is 1 except for yarn and longrope. For dynamic and longrope, `f` depends on the
length of the sequence: one forward pass uses one set of frequencies for all positions
of a row. Keys in the cache keep the frequencies of the length at which they were
computed, as in transformers' `generate`; so beyond the original context, extending a
sequence gives other numbers than computing it whole. Unlike transformers, which takes
the frequencies of the longest row for the whole batch, each row here uses its own
length, so that its result does not depend on the other rows.

Source: RoFormer (arXiv 2104.09864); yarn (arXiv 2309.00071); longrope (arXiv
2402.13753); all as in transformers' `modeling_rope_utils`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.llama.config import LlamaConfig, RopeScaling

_LONGEST = 2**31 - 1  # tokens; lengths are int32


@dataclasses.dataclass(frozen=True)
class Rotary:
    """The frequencies of one model; hashable.

    Attributes:
      frequencies: radians per position of each channel pair; `head_dim // 2` numbers.
      attention_factor: factor on cosines and sines (`g`).
      context: longest sequence, in tokens, for which `frequencies` hold; None for any.
      long_frequencies: frequencies for longer sequences (longrope).
      growth: factor by which the context is stretched for longer sequences (dynamic).
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
          lengths: int32 `[B]` or `[B, L]`, length of each row's or token's sequence;
            ignored unless the frequencies depend on it.

        Returns:
          Two float32 arrays `[B, L, 1, head_dim]`, to be broadcast over heads.
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
        short = jnp.asarray(self.frequencies, jnp.float32)
        if self.context is None:
            return short
        if self.long_frequencies is not None:
            long = jnp.asarray(self.long_frequencies, jnp.float32)
        else:
            long = self._stretched(short, lengths)
        return jnp.where(lengths > self.context, long, short)

    def _stretched(self, short: jax.Array, lengths: jax.Array) -> jax.Array:
        """Dynamic NTK: the base period grows by a ratio r with the length.

        `1 / (base r^e)^p = f r^(-e p)`: this form loses less precision in float32.
        """
        dim = 2 * len(self.frequencies)
        powers = np.arange(0, dim, 2, dtype=np.float32) / (dim - 2)
        share = jnp.maximum(lengths, self.context).astype(jnp.float32) / self.context
        ratio = self.growth * share - (self.growth - 1.0)
        return short * jnp.exp(-powers * jnp.log(ratio))


def make_rotary(config: LlamaConfig) -> Rotary:
    """The frequencies of a model.

    Raises:
      BadInputError: its settings give frequencies that are not finite.
    """
    with np.errstate(all="ignore"):
        rotary = _make_rotary(config)
        numbers = [*rotary.frequencies, *(rotary.long_frequencies or ())]
        numbers = np.asarray([*numbers, rotary.attention_factor], np.float32)
    if not np.isfinite(numbers).all():
        raise BadInputError(
            f"config: rope_theta = {config.rope_theta!r} and rope_scaling = "
            f"{config.to_hf()['rope_scaling']!r} give rotary frequencies that are not "
            "finite; take these settings from the model's own config.json"
        )
    return rotary


def _make_rotary(config: LlamaConfig) -> Rotary:
    powers = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    periods = (np.float32(config.rope_theta) ** powers).astype(np.float32)
    plain = np.float32(1.0) / periods
    scaling = config.rope_scaling
    match scaling and scaling.rope_type:
        case "linear":
            return Rotary(_tuple(plain / np.float32(scaling.factor)))
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
                context=min(config.max_position_embeddings, _LONGEST),
                growth=scaling.factor,
            )
    return Rotary(_tuple(plain))


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates queries or keys to their positions.

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


def _llama3(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Long wavelengths are stretched by `factor`, short ones kept, a ramp between."""
    context = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelength = 2 * math.pi / plain
    stretched = plain / np.float32(scaling.factor)
    ramp = (context / wavelength - low) / (high - low)
    between = (1 - ramp) * stretched + ramp * plain
    out = np.where(wavelength > context / low, stretched, between)
    return np.where(wavelength < context / high, plain, out)


def _proportional(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """The first share of the channels rotates, the others do not."""
    rotating = int(scaling.partial_rotary_factor * len(plain))
    kept = np.where(np.arange(len(plain)) < rotating, plain, np.float32(0.0))
    return kept / np.float32(scaling.factor or 1.0)


def _yarn(config: LlamaConfig, periods: np.ndarray, scaling: RopeScaling) -> Rotary:
    """Slow channels are stretched by `factor`, fast ones kept, a ramp between."""
    dim, theta = config.head_dim, config.rope_theta
    context = scaling.original_max_position_embeddings
    factor = scaling.factor or config.max_position_embeddings / context

    def channel(rotations: float) -> float:
        """The channel that makes `rotations` turns within the original context."""
        turns = math.log(context / (rotations * 2 * math.pi))
        return dim * turns / (2 * math.log(theta))

    low, high = channel(scaling.beta_fast or 32), channel(scaling.beta_slow or 1)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = high + 0.001 if low == high else high
    ramp = (np.arange(dim // 2, dtype=np.float32) - low) / (high - low)
    kept = 1 - np.clip(ramp, 0, 1).astype(np.float32)
    stretched = np.float32(1.0) / (np.float32(factor) * periods)
    frequencies = stretched * (1 - kept) + kept / periods
    attention = scaling.attention_factor or _yarn_attention(scaling, factor)
    return Rotary(_tuple(frequencies), attention)


def _yarn_attention(scaling: RopeScaling, factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    over, under = scaling.mscale, scaling.mscale_all_dim
    return mscale(over) / mscale(under) if over and under else mscale(1.0)


def _longrope(config: LlamaConfig, periods: np.ndarray, scaling: RopeScaling) -> Rotary:
    """One divisor per channel pair, another set beyond the original context."""
    context = scaling.original_max_position_embeddings
    factor = scaling.factor or config.max_position_embeddings / context
    attention = scaling.attention_factor
    if attention is None:
        attention = 1.0
        if factor > 1.0:
            attention = math.sqrt(1 + math.log(factor) / math.log(context))
    short, long = (
        np.float32(1.0) / (np.asarray(divisors, np.float32) * periods)
        for divisors in (scaling.short_factor, scaling.long_factor)
    )
    return Rotary(_tuple(short), attention, min(context, _LONGEST), _tuple(long))
