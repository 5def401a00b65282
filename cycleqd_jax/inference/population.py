"""Individuals in factored form: the tables that hold them.

In factored form individuals share the base weights and the directions of the basis;
each of them is one row of a table. In materialised form an individual is a set of plain
weights (`merging/materialise.py`).
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cycleqd_jax.merging.basis_store import Placement
from cycleqd_jax.merging.forms import Basis, DiagonalBasis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.models import sharding
from cycleqd_jax.models.base import Deltas, LowRank


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
        """The change of the weights for each row; `individuals` is int32 `[B]`."""
        own = self.coefficients[individuals] if self.layout else None
        matrices = {
            name: LowRank(self.u[name], self.v[name], own[:, start : start + size])
            for name, start, size in self.layout
        }
        vectors = {name: table[individuals] for name, table in self.vectors.items()}
        return Deltas(matrices, vectors)


def place_basis(basis: Basis, mesh: Mesh | None) -> Basis:
    """The basis with its directions and residuals on a mesh, divided as its matrices.

    The engine then uses these arrays without another copy. Without a mesh the basis
    itself is returned.
    """
    if mesh is None:
        return basis
    place = basis_placement(mesh)
    return basis.replace(
        **{
            group: {
                name: place(group, name, array)
                for name, array in getattr(basis, group).items()
            }
            for group in ("u", "v", "residuals")
        }
    )


def basis_placement(mesh: Mesh | None) -> Placement:
    """A function that puts arrays of a basis where `place_basis` puts them."""

    def place(group: str, name: str, array: Any) -> jax.Array:
        if mesh is None or group in ("", "deltas"):
            return jnp.asarray(array)
        if group == "residuals":
            partition = PartitionSpec(None, *sharding.weight_spec(name))
            return jax.device_put(array, NamedSharding(mesh, partition))
        dimension = ("u", "v").index(group)
        return jax.device_put(array, sharding.direction_sharding(name, dimension, mesh))

    return place


def empty_population(basis: DiagonalBasis, rows: int) -> Population:
    """A population whose rows all hold the base model.

    Args:
      basis: in diagonal form. The population holds its directions themselves, not
        copies of them.
      rows: I, the number of individuals that share a pass; programs are compiled for
        this number.
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
    population: Population, basis: DiagonalBasis, genome: Genome, row: int
) -> Population:
    """The population with an individual in one row; its other rows do not change.

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
    """The tables `[I, G]` and name -> `[I, ...]` with an individual in one row."""
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
