"""Populations from genomes: the tables in which the engine looks up coefficients.

One row of a table is one individual; a genome is put into a row in one small program,
so that a child is ready to run at once after it was bred.
"""

import jax
import jax.numpy as jnp

from cycleqd_jax.inference.programs import Population
from cycleqd_jax.merging.basis import Basis
from cycleqd_jax.merging.genome import Genome


def empty_population(basis: Basis, rows: int) -> Population:
    """A population of base models, I = `rows`.

    Args:
      basis: in diagonal form; the population refers to its directions, without a copy.
      rows: how many individuals there is room for; part of every program's shape.
    """
    return Population(
        u=basis.u,
        v=basis.v,
        coefficients=jnp.zeros((rows, basis.genome_size), jnp.float32),
        vectors={
            name: jnp.zeros((rows, *delta.shape[1:]), jnp.float32)
            for name, delta in basis.deltas.items()
        },
        layout=tuple((slot.name, slot.offset, slot.size) for slot in basis.layout),
    )


def with_individual(
    population: Population, basis: Basis, genome: Genome, row: int
) -> Population:
    """The population with one individual in another row; the others stay as they are.

    Args:
      population: made by `empty_population` from the same basis.
      basis: of the genome.
      genome: one genome, `[G]` and `[K]`.
      row: 0 to I - 1.
    """
    coefficients, vectors = _set_row(
        population.coefficients,
        population.vectors,
        genome.coefficients,
        genome.scales,
        basis.deltas,
        row,
    )
    return population.replace(coefficients=coefficients, vectors=vectors)


@jax.jit
def _set_row(coefficients, vectors, own, scales, deltas, row):
    """The tables of a population with another individual in one row."""
    coefficients = coefficients.at[row].set(own)
    vectors = {
        # Without HIGHEST a GPU or TPU would multiply in TF32 or bfloat16.
        name: table.at[row].set(
            jnp.tensordot(
                scales, deltas[name], axes=1, precision=jax.lax.Precision.HIGHEST
            )
        )
        for name, table in vectors.items()
    }
    return coefficients, vectors
