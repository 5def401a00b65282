"""Genomes as plain low-rank factors, for those who know nothing of a basis."""

import numpy as np

from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.materialise import split_coefficients

_EMBEDDING = "model.embed_tokens.weight"


def is_low_rank(basis: AnyBasis, genome: Genome, *, tied_embeddings: bool) -> bool:
    """Whether the change against the base is exactly a sum of matrix products.

    It is not if the individual changes a parameter that is no matrix, holds a share of
    a residual or Gaussian noise, or changes an embedding that is also the output head:
    an adapter would change only one of the two.
    """
    scales = np.asarray(genome.scales)
    moved = any(
        np.any(np.tensordot(scales, np.asarray(delta), axes=1))
        for delta in basis.deltas.values()
    )
    coefficients = split_coefficients(basis, genome)
    tied = tied_embeddings and np.any(np.asarray(coefficients.get(_EMBEDDING, 0.0)))
    rest = any(
        np.any(np.tensordot(scales, np.asarray(residual), axes=1))
        for residual in basis.residuals.values()
    )
    noise = genome.noise is not None and np.any(np.asarray(genome.noise))
    return not (moved or tied or rest or noise)


def low_rank_factors(
    basis: AnyBasis, genome: Genome
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Factors `(b [out, R], a [R, in])`, float32; `b @ a` is a matrix's change.

    Without residuals and noise, which have no low rank.

    Args:
      basis: the basis.
      genome: one genome.

    Returns:
      By the name of the matrix; R is the ranks of all experts together.
    """
    coefficients = split_coefficients(basis, genome)
    factors = {}
    for name, own in coefficients.items():
        left, right = basis.factors(name, own)
        factors[name] = (np.asarray(left), np.ascontiguousarray(np.asarray(right).T))
    return factors
