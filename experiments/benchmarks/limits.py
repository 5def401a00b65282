"""Limits of the machine: bytes read and operations done per second."""

import concurrent.futures
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.frame import cores

_BYTES = 256 << 20  # more than the caches of one machine's share hold
_SIDE = 1536


class Limits(NamedTuple):
    """Attributes: bytes read per second; float32 operations per second."""

    bandwidth: float
    rate: float


def measure_limits(repeats: int) -> Limits:
    """The best of several tries on all cores; the machine's ceiling, not a mean."""
    return Limits(_bandwidth(repeats), _rate(repeats))


def _bandwidth(repeats: int) -> float:
    """Bytes per second that BLAS's scalar products read."""
    parts = np.array_split(np.ones(_BYTES // 4, np.float32), cores())
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:

        def read() -> None:
            list(pool.map(lambda part: np.dot(part, part), parts))

        return _BYTES / _best(read, repeats)


def _rate(repeats: int) -> float:
    """Operations per second of XLA's product of square matrices."""
    matrix = jnp.ones((_SIDE, _SIDE))
    product = jax.jit(jnp.dot)
    seconds = _best(lambda: product(matrix, matrix).block_until_ready(), repeats)
    return 2 * _SIDE**3 / seconds


def _best(do, repeats: int) -> float:
    do()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        do()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
