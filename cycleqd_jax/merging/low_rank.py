"""Genomes as plain low-rank factors, for those who know nothing of a basis."""

import numpy as np

from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.materialise import split_coefficients


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
