"""Tells a copy that was rounded to another dtype from an array that was changed."""

import jax.numpy as jnp
import numpy as np

_BLOCK = 1 << 20
# Largest relative error of rounding to the nearest value. A bfloat16 may have been
# a float16 before.
_UNITS = {
    "bfloat16": 2.0**-8 + 2.0**-11,
    "float16": 2.0**-11,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
}
_TINY = 2.0**-25  # largest error of rounding to float16 below its normal range


def is_rounded_copy(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays may be the same array, rounded to their dtypes.

    An array may also hold values of fewer bits than its dtype has: those of a bfloat16
    model that was loaded in float32.

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
        quick = one.astype(other.dtype), other.astype(one.dtype)
    if np.array_equal(quick[0], other) or np.array_equal(quick[1], one):
        return True
    units = _unit(one) + _unit(other)
    one, other = one.astype(np.float64), other.astype(np.float64)
    allowed = units * np.maximum(np.abs(one), np.abs(other)) + _TINY
    return bool((np.abs(one - other) <= allowed).all())


def _unit(block: np.ndarray) -> float:
    """The rounding of the coarsest dtype that holds every value of the block."""
    for dtype in (jnp.dtype(jnp.bfloat16), np.dtype(np.float16)):
        with np.errstate(over="ignore"):
            coarse = block.astype(dtype)
        if np.array_equal(coarse.astype(block.dtype), block):
            return _UNITS[dtype.name]
    return _UNITS[block.dtype.name]
