"""Task vectors of large matrices, which never exist in float64.

They are subtracted on the accelerator. The difference of two bfloat16 numbers is exact
in float32 unless one of them is 65536 times the other.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 1 << 24  # bytes compared in one step


@dataclasses.dataclass(frozen=True)
class DeviceDelta:
    """The task vector of a large matrix, on the accelerator.

    Attributes:
      array: float32 `[out, in]`.
    """

    array: jax.Array

    def dense(self) -> np.ndarray:
        """A copy on the host, float64 `[out, in]`."""
        return np.asarray(self.array, np.float64)


def subtract_on_device(
    after: np.ndarray, before: np.ndarray
) -> tuple[DeviceDelta | None, float]:
    """Returns the task vector of a matrix, None if it is zero, and its Frobenius norm.

    Args:
      after: floating point `[out, in]`, finite.
      before: likewise.

    Returns:
      The norm is infinite where its square is beyond float32.
    """
    if _same_bytes(after, before):
        return None, 0.0
    # A CPU takes NumPy's memory as it is, if asked so.
    array, norm = _subtract(jnp.asarray(after), jnp.asarray(before))
    norm = float(norm)
    # Bytes may differ and the norm be zero: 0 and -0.
    return DeviceDelta(array) if norm else None, norm


@jax.jit
def _subtract(after: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
    array = after.astype(jnp.float32) - before.astype(jnp.float32)
    return array, jnp.linalg.norm(array)


def _same_bytes(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype != other.dtype:
        return False
    one, other = (
        np.ascontiguousarray(side).reshape(-1).view(np.uint8) for side in (one, other)
    )
    return all(
        np.array_equal(one[i : i + _BLOCK], other[i : i + _BLOCK])
        for i in range(0, one.size, _BLOCK)
    )
