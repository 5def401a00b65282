"""Layers on flat weights, with what each batch row adds to them.

Every function takes the row axis first: B rows, or 1 that all rows share. A row is an
image with the individual that looks at it, so one batch may hold many individuals; the
base weights are read once for all of them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cycleqd_jax.models.base import Deltas, LowRank, Weights

_ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
}
_NHWC = ("NHWC", "OIHW", "NHWC")


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The weights of a model, and the additions of each row.

    A low-rank addition of a kernel `[n, ...]` is that of the matrix `[n, rest]`.

    Attributes:
      weights: the flat weights.
      deltas: the additions.
    """

    weights: Weights
    deltas: Deltas

    def array(self, name: str) -> jax.Array:
        """A whole parameter of each row, `[1 or B, *shape]`; for small ones."""
        value = self.weights[name][None]
        if (own := self.deltas.matrices.get(name)) is not None:
            left = own.u * own.c[:, None] if own.c.ndim == 2 else own.u @ own.c
            change = (left @ own.v.T).reshape(-1, *value.shape[1:])
            value = (value + change).astype(value.dtype)
        if (change := self.deltas.vectors.get(name)) is not None:
            value = (value + change).astype(value.dtype)
        return value

    def linear(self, x: jax.Array, name: str) -> jax.Array:
        """`[B, ..., in]` to `[B, ..., out]`; also kernels `[out, in, 1, 1]`."""
        weight = self.weights[f"{name}.weight"]
        low_rank = self.deltas.matrices.get(f"{name}.weight")
        y = _project(x, weight.reshape(weight.shape[0], -1), low_rank)
        return self._biased(y, name)

    def norm(self, x: jax.Array, name: str, epsilon: float) -> jax.Array:
        """Layer norm over the last axis, computed in float32."""
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        wide = (wide * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)
        scale = spread(self.array(f"{name}.weight"), x.ndim)
        return wide * scale + spread(self.array(f"{name}.bias"), x.ndim)

    def strided(self, x: jax.Array, name: str) -> jax.Array:
        """A convolution whose stride s is its side: to `[B, H / s, W / s, out]`."""
        side = self.weights[f"{name}.weight"].shape[-1]
        rows, height, width, channels = x.shape
        shape = (rows, height // side, side, width // side, side, channels)
        patches = x.reshape(shape).transpose(0, 1, 3, 5, 2, 4)
        return self.linear(patches.reshape(*patches.shape[:3], -1), name)

    def convolution(self, x: jax.Array, name: str) -> jax.Array:
        """A convolution that keeps the size: `[B, H, W, in]` to `[B, H, W, out]`."""
        weight = self.weights[f"{name}.weight"]
        y = _convolve(x, weight)
        low_rank = self.deltas.matrices.get(f"{name}.weight")
        if low_rank is not None:
            inner = _convolve(x, low_rank.v.T.reshape(-1, *weight.shape[1:]))
            y = y + _outer(inner, low_rank).astype(y.dtype)
        return self._biased(y, name)

    def upscale(self, x: jax.Array, name: str) -> jax.Array:
        """A transposed convolution of stride s, its side: to `[B, s H, s W, out]`."""
        weight = self.weights[f"{name}.weight"]  # [in, out, s, s]
        low_rank = self.deltas.matrices.get(f"{name}.weight")
        if low_rank is not None:  # of the matrix [in, out * s * s]
            c = low_rank.c
            c = c if c.ndim == 2 else c.swapaxes(1, 2)
            low_rank = LowRank(low_rank.v, low_rank.u, c)
        y = _project(x, weight.reshape(weight.shape[0], -1).T, low_rank)
        rows, height, width, _ = x.shape
        out, side = weight.shape[1], weight.shape[-1]
        y = y.reshape(rows, height, width, out, side, side)
        y = y.transpose(0, 1, 4, 2, 5, 3)
        return self._biased(y.reshape(rows, side * height, side * width, out), name)

    def _biased(self, y: jax.Array, name: str) -> jax.Array:
        if f"{name}.bias" not in self.weights:
            return y
        return y + spread(self.array(f"{name}.bias"), y.ndim)


def activate(x: jax.Array, kind: str) -> jax.Array:
    """The activation of that name."""
    return _ACTIVATIONS[kind](x)


def spread(array: jax.Array, ndim: int) -> jax.Array:
    """`[b, n]` to `[b, 1, ..., n]` of `ndim` axes."""
    return array.reshape(array.shape[0], *(1,) * (ndim - 2), array.shape[-1])


def _project(x: jax.Array, weight: jax.Array, low_rank: LowRank | None) -> jax.Array:
    """`x W^T`, with the low-rank addition of each row."""
    y = x @ weight.T
    if low_rank is None:
        return y
    return y + _outer(x @ low_rank.v, low_rank).astype(y.dtype)


def _outer(inner: jax.Array, low_rank: LowRank) -> jax.Array:
    """`[B, ..., Rv]` by coefficients and output side to `[B, ..., out]`."""
    c = low_rank.c
    if c.ndim == 2:
        inner = inner * spread(c, inner.ndim)
    else:
        flat = inner.reshape(inner.shape[0], -1, inner.shape[-1])
        flat = flat @ c.swapaxes(1, 2)
        inner = flat.reshape(-1, *inner.shape[1:-1], c.shape[1])
    return inner.astype(low_rank.u.dtype) @ low_rank.u.T


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    kernel = kernel.astype(x.dtype)
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC
    )
