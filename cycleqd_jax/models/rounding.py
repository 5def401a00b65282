"""Tells a copy that was rounded to another dtype from an array that was changed."""

import jax.numpy as jnp
import numpy as np

_BLOCK = 1 << 20
# Largest error of rounding a value in [1, 2) to the nearest. A bfloat16 may have been a
# float16 before.
_ERRORS = {
    "bfloat16": 2.0**-8 + 2.0**-11,
    "float16": 2.0**-11,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
}
# The largest error of float16 below its normal range, where a bfloat16 has more bits.
_TINY = 2.0**-25


def is_rounded_copy(one: np.ndarray, other: np.ndarray) -> bool:
    """True if two arrays may be the same array, rounded to their dtypes.

    An array may hold values of fewer bits than its dtype has: those of a bfloat16 model
    that was loaded in float32. Arrays of equally many bits must be equal, up to what
    float16 cannot hold.

    Args:
      one: floating point, any shape.
      other: likewise.
    """
    if one.shape != other.shape:
        return False
    one, other = one.reshape(-1), other.reshape(-1)
    return all(
        _near(one[i : i + _BLOCK], other[i : i + _BLOCK])
        for i in range(0, one.size, _BLOCK)
    )


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        rounded = one.astype(other.dtype), other.astype(one.dtype)
    if np.array_equal(rounded[0], other) or np.array_equal(rounded[1], one):
        return True
    bits = {_bits(one), _bits(other)}
    one, other = one.astype(np.float64), other.astype(np.float64)
    # 2^e of values in [2^e, 2^(e + 1)): rounding errors are absolute in that range.
    scale = np.ldexp(0.5, np.frexp(np.maximum(np.abs(one), np.abs(other)))[1])
    error = sum(_ERRORS[name] for name in bits) if len(bits) > 1 else 0.0
    tiny = _TINY if bits & {"float16", "bfloat16"} else 0.0
    allowed = error * scale + tiny
    return bool((np.abs(one - other) <= allowed).all())


def _bits(block: np.ndarray) -> str:
    """The coarsest dtype that holds every value of the block."""
    for dtype in (jnp.dtype(jnp.bfloat16), np.dtype(np.float16)):
        with np.errstate(over="ignore"):
            coarse = block.astype(dtype)
        if np.array_equal(coarse.astype(block.dtype), block):
            return dtype.name
    return block.dtype.name
