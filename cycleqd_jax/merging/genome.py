"""Genomes: an individual as one coefficient per expert and singular direction.

A batch of genomes has leading axes before G and K. All functions are pure; nothing
here is random.
"""

import hashlib
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.merging.basis import Basis


@flax.struct.dataclass
class Genome:
    """One individual, or a batch of them.

    Attributes:
      coefficients: `[..., G]` float32, in the order of `Basis.layout`.
      scales: `[..., K]` float32, one per expert for parameters that are no matrix.
    """

    coefficients: jax.Array
    scales: jax.Array

    def __getitem__(self, index) -> "Genome":
        """The genomes at `index` of the leading axis."""
        return jax.tree.map(lambda leaf: leaf[index], self)


def expert_genome(basis: Basis, expert: int) -> Genome:
    """The genome of expert `expert` (0-based): its singular values, the rest zero."""
    if not 0 <= expert < basis.num_experts:
        raise ValueError(
            f"expert: expected 0 to {basis.num_experts - 1}, got {expert}."
        )
    mine = basis.experts_of == expert
    return Genome(
        coefficients=jnp.where(mine, basis.singular_values, 0.0),
        scales=jnp.zeros(basis.num_experts, jnp.float32).at[expert].set(1.0),
    )


def base_genome(basis: Basis) -> Genome:
    """The genome of the base model: all zero."""
    return scaled_sum(basis, 0.0)


def scaled_sum(basis: Basis, factor: float) -> Genome:
    """The sum of all experts' task vectors, times `factor` (task arithmetic)."""
    return Genome(
        coefficients=basis.singular_values * jnp.float32(factor),
        scales=jnp.full(basis.num_experts, factor, jnp.float32),
    )


def uniform(basis: Basis) -> Genome:
    """The mean of all experts' task vectors: every task vector times 1/K."""
    return scaled_sum(basis, 1.0 / basis.num_experts)


def stack_genomes(genomes: Sequence[Genome]) -> Genome:
    """One batch `[P, ...]` from P single genomes; on the host."""
    return Genome(
        coefficients=np.stack([np.asarray(g.coefficients) for g in genomes]),
        scales=np.stack([np.asarray(g.scales) for g in genomes]),
    )


def linear_combination(genomes: Genome, weights: np.ndarray) -> Genome:
    """`sum_i weights_i genome_i`, summed in float64 on the host.

    Args:
      genomes: a batch of N, `[N, G]` and `[N, K]`.
      weights: `[N]`; they need not sum to one.

    Returns:
      One genome, float32.

    Raises:
      ValueError: the number of weights is not N.
    """
    weights = np.asarray(weights, np.float64)
    count = np.shape(genomes.coefficients)[0]
    if weights.shape != (count,):
        raise ValueError(
            f"weights: expected shape [{count}], one per genome, got "
            f"{list(weights.shape)}."
        )

    def combine(leaf) -> jax.Array:
        return jnp.asarray(weights @ np.asarray(leaf, np.float64), jnp.float32)

    return Genome(combine(genomes.coefficients), combine(genomes.scales))


def genome_hash(genome: Genome) -> str:
    """SHA-256 of one genome's float32 bits, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for leaf in (genome.coefficients, genome.scales):
        digest.update(np.ascontiguousarray(leaf, dtype="<f4").tobytes())
    return digest.hexdigest()
