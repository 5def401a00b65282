"""The active archive and the random keys of each generation.

Generation t (t = 1, 2, ...) is one child. All its random draws depend on the seed and
t, and never on the batch that it is part of.
"""

from typing import NamedTuple

import jax
from qdax.custom_types import RNGKey


class GenerationKeys(NamedTuple):
    """The random keys of one generation; each must be used once."""

    parents: RNGKey
    crossover: RNGKey
    mutation: RNGKey
    decoding: RNGKey


def generation_keys(run_key: RNGKey, generation: jax.Array | int) -> GenerationKeys:
    """The keys of one generation: `fold_in(run_key, t)`, split into four.

    Args:
      run_key: one typed key, `jax.random.key(seed)`; not consumed.
      generation: t, int32 `[]`.
    """
    return GenerationKeys(*jax.random.split(jax.random.fold_in(run_key, generation), 4))


def active_archive(
    generation: jax.Array | int, num_tasks: int, flip_interval: int
) -> jax.Array | int:
    """The archive of generation t's parents: `(t // flip_interval) % K`, 0-based."""
    return (generation // flip_interval) % num_tasks
