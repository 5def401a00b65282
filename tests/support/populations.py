"""Populations from one table of coefficients per matrix."""

import jax.numpy as jnp

from cycleqd_jax.inference.population import Population


def from_tables(u, v, coefficients, vectors):
    """A population.

    Args:
      u: name -> `[out, R]`.
      v: name -> `[in, R]`.
      coefficients: name -> `[I, R]`.
      vectors: name -> `[I, n]`.
    """
    layout, start = [], 0
    for name, table in coefficients.items():
        layout.append((name, start, table.shape[1]))
        start += table.shape[1]
    tables = jnp.concatenate(list(coefficients.values()), axis=1)
    return Population(u, v, tables, vectors, tuple(layout))
