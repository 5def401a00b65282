"""Populations in factored form: tables in which the engine looks up coefficients.

A row of a table is one individual. One small program writes a genome into a row, so a
child can run as soon as it is proposed.

I denotes individuals, R the summed ranks of all experts, G coefficients of a genome.
"""

import flax.struct
import jax
import jax.numpy as jnp

from cycleqd_jax.merging.basis import Basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.models.llama.program import Deltas, LowRank


@flax.struct.dataclass
class Population:
    """The individuals that share a pass, in factored form.

    Attributes:
      u: name -> `[out, R]`, shared.
      v: name -> `[in, R]`, shared.
      coefficients: `[I, G]`, of all matrices side by side, so that one operation sets
        or looks up an individual. None if there are no matrices.
      vectors: name -> `[I, n]`, added to norm scales and biases.
      layout: (name, first column, R) of each matrix in `coefficients`; static.
    """

    u: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    v: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    coefficients: jax.Array | None = None
    vectors: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    layout: tuple[tuple[str, int, int], ...] = flax.struct.field(
        default=(), pytree_node=False
    )

    @property
    def count(self) -> int:
        """I; 0 if empty."""
        tables = jax.tree.leaves((self.coefficients, self.vectors))
        return tables[0].shape[0] if tables else 0

    def deltas(self, individuals: jax.Array) -> Deltas:
        """What each row adds to the weights; `individuals` is int32 `[B]`."""
        own = self.coefficients[individuals] if self.layout else None
        matrices = {
            name: LowRank(self.u[name], self.v[name], own[:, start : start + size])
            for name, start, size in self.layout
        }
        vectors = {name: table[individuals] for name, table in self.vectors.items()}
        return Deltas(matrices, vectors)


def empty_population(basis: Basis, rows: int) -> Population:
    """A population of base models, I = `rows`.

    Args:
      basis: in diagonal form. All experts' directions of a matrix are put side by
        side, `[out or in, K * r]`.
      rows: number of individuals; part of every program's shape.
    """

    def flat(side: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: array.reshape(array.shape[0], -1) for name, array in side.items()}

    return Population(
        u=flat(basis.u),
        v=flat(basis.v),
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
    """Writes a genome into one row of a population; the other rows do not change.

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
