"""Genomes: an individual as coefficients along the directions of a basis.

A batch of genomes has leading axes before G, K and N. All functions are pure and
deterministic.
"""

import hashlib
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.merging.forms import Basis


@flax.struct.dataclass
class Genome:
    """One individual, or a batch of them.

    Attributes:
      coefficients: `[..., G]` float32, in the order of the basis's `layout`.
      scales: `[..., K]` float32, one scalar per expert for the parameters that have no
        coefficients: those other than matrices, and residuals.
      noise: `[..., N]` float32; entry t - 1 is the share of generation t's Gaussian
        noise (`noise.py`). None stands for zeros, where mutation is not Gaussian.
    """

    coefficients: jax.Array
    scales: jax.Array
    noise: jax.Array | None = None

    def __getitem__(self, index) -> "Genome":
        """The genomes at `index` of the leading axis."""
        return jax.tree.map(lambda leaf: leaf[index], self)


def expert_genome(basis: Basis, expert: int) -> Genome:
    """The genome of expert `expert` (0-based): its own coefficients, zero elsewhere.

    Raises:
      ValueError: there is no such expert.
    """
    if not 0 <= expert < basis.num_experts:
        raise ValueError(
            f"expert: expected 0 to {basis.num_experts - 1}, got {expert}."
        )
    return Genome(
        coefficients=basis.expert_coefficients(expert),
        scales=jnp.zeros(basis.num_experts, jnp.float32).at[expert].set(1.0),
    )


def base_genome(basis: Basis) -> Genome:
    """The genome of the base model: zero everywhere."""
    return scaled_sum(basis, 0.0)


def scaled_sum(basis: Basis, factor: float) -> Genome:
    """The sum of all experts' task vectors, times `factor` (task arithmetic)."""
    return Genome(
        coefficients=basis.summed_coefficients() * jnp.float32(factor),
        scales=jnp.full(basis.num_experts, factor, jnp.float32),
    )


def uniform(basis: Basis) -> Genome:
    """The mean of all experts' task vectors: every task vector times 1/K."""
    return scaled_sum(basis, 1.0 / basis.num_experts)


def stack_genomes(genomes: Sequence[Genome]) -> Genome:
    """One batch `[P, ...]` from P single genomes; on the host.

    If any of them has noise, all get noise of the largest length, padded with zeros.
    """
    noise = None
    if any(genome.noise is not None for genome in genomes):
        each = [() if genome.noise is None else genome.noise for genome in genomes]
        length = max(np.shape(one)[-1] for one in each)
        noise = np.stack([resize_noise(one, length) for one in each])
    return Genome(
        coefficients=np.stack([np.asarray(g.coefficients) for g in genomes]),
        scales=np.stack([np.asarray(g.scales) for g in genomes]),
        noise=noise,
    )


def resize_noise(noise: np.ndarray, length: int) -> np.ndarray:
    """Noise shares `[N]`, padded with zeros to `[length]`.

    Raises:
      ValueError: N is larger than the length.
    """
    noise = np.asarray(noise, np.float32)
    if noise.shape[0] > length:
        raise ValueError(f"noise: expected at most {length}, got {noise.shape[0]}.")
    return np.pad(noise, (0, length - noise.shape[0]))


def linear_combination(genomes: Genome, weights: np.ndarray) -> Genome:
    """`sum_i weights_i genome_i`, summed in float64 on the host.

    Args:
      genomes: a batch of I, `[I, G]` and `[I, K]`.
      weights: `[I]`; they need not sum to one.

    Returns:
      One genome, float32.

    Raises:
      ValueError: the number of weights is not I.
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

    return jax.tree.map(combine, genomes)


def genome_hash(genome: Genome) -> str:
    """SHA-256 of one genome's float32 bits, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(genome):
        digest.update(np.ascontiguousarray(leaf, dtype="<f4").tobytes())
    return digest.hexdigest()
