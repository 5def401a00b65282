"""Genomes as plain low-rank factors, for those who know nothing of a basis."""

import numpy as np

from cycleqd_jax.merging.basis import Basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.materialise import split_coefficients

_EMBEDDING = "model.embed_tokens.weight"


def is_low_rank(basis: Basis, genome: Genome, *, tied_embeddings: bool) -> bool:
    """Whether the change against the base is exactly a sum of matrix products.

    It is not if the individual changes a parameter that is no matrix, or an embedding
    that is also the output head: an adapter would change only one of the two.
    """
    scales = np.asarray(genome.scales)
    moved = any(
        np.any(np.tensordot(scales, np.asarray(delta), axes=1))
        for delta in basis.deltas.values()
    )
    coefficients = split_coefficients(basis, genome)
    tied = tied_embeddings and np.any(np.asarray(coefficients.get(_EMBEDDING, 0.0)))
    return not moved and not tied


def low_rank_factors(
    basis: Basis, genome: Genome
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Factors `(b [out, R], a [R, in])` with `b @ a = U diag(c) V^T`, float32.

    Args:
      basis: the basis.
      genome: one genome.

    Returns:
      By the name of the matrix; R is the ranks of all experts together.
    """
    coefficients = split_coefficients(basis, genome)
    factors = {}
    for slot in basis.layout:
        u = np.asarray(basis.u[slot.name]).reshape(-1, slot.size)
        v = np.asarray(basis.v[slot.name]).reshape(-1, slot.size)
        c = np.asarray(coefficients[slot.name])
        factors[slot.name] = (u * c, np.ascontiguousarray(v.T))
    return factors
