"""Products and cache entries in bfloat16, where a CPU takes another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cycleqd_jax.models import cached_attention, layers

SHAPES = [(1, 1, 48, 96), (8, 1, 48, 96), (64, 1, 48, 96), (3, 7, 96, 48)]


def drawn(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape).astype(jnp.bfloat16)


def wide(x):
    return np.asarray(x, np.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_products_in_bfloat16_are_rounded_once(shape):
    batch, length, fan_in, out = shape
    x, matrix = drawn(0, batch, length, fan_in), drawn(1, out, fan_in)
    found = jax.jit(layers.times)(x, matrix)
    assert found.dtype == jnp.bfloat16
    exact = wide(x) @ wide(matrix).T
    # Half a unit in the last of 8 digits, and what float32 loses on the way.
    np.testing.assert_allclose(wide(found), exact, rtol=2.0**-8 * 1.001, atol=2e-5)


def test_gradients_of_products_in_bfloat16():
    x, matrix = drawn(0, 3, 5, 48), drawn(1, 96, 48)

    def loss(x, matrix):
        return jnp.sum(layers.times(x, matrix).astype(jnp.float32) ** 2)

    found = jax.grad(loss, argnums=(0, 1))(x, matrix)
    y = wide(x) @ wide(matrix).T
    exact = (2 * y @ wide(matrix), 2 * np.einsum("blo,bli->oi", y, wide(x)))
    for one, other in zip(found, exact, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(wide(one) / scale, other / scale, atol=2.0**-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_new_entries_of_the_cache(dtype):
    old = drawn(0, 5, 2, 9, 4).astype(dtype)
    new = drawn(1, 3, 2, 2, 4).astype(dtype)
    # A NaN and an infinity keep their bits; positions and rows outside are dropped.
    new = new.at[0, 0, 0].set(jnp.asarray([jnp.nan, jnp.inf, -0.0, 1e-40], dtype))
    rows, positions = jnp.asarray([4, 0, 5]), jnp.asarray([[0, 8], [3, 9], [1, 2]])
    found = jax.jit(cached_attention._write)(old, rows, positions, new)
    wanted = np.array(old)
    for i, row in enumerate(rows):
        for j, position in enumerate(positions[i]):
            if row < 5 and position < 9:
                wanted[row, :, position] = np.asarray(new)[i, j]
    assert found.dtype == dtype
    assert np.asarray(found).tobytes() == wanted.tobytes()
