"""Closed-form merges as genomes: one model from the experts, without a search.

    sum      sum_k tau_k            task arithmetic; in a conditioned basis RegMean
    uniform  sum_k tau_k / K        the mean of the task vectors
    tsv_m    U' diag(s) V'^T        singular vectors of all experts, decorrelated
    iso_c    mean(s) U V^T          the sum with all its singular values made equal

The last two lie in the span of the experts' directions, so they are exact as cores
(`core_basis.py`) and need no whole weights. Both take the mean of the task vectors for
parameters other than matrices, as their published codes do.

Sources: task arithmetic, Ilharco et al. (arXiv 2212.04089); TSV-M, Gargiulo et al.
(arXiv 2412.00081); Iso-C, Marczak et al. (arXiv 2502.04959).
"""

from collections.abc import Sequence

import jax
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.core_basis import CoreBasis
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import (
    Genome,
    expert_genome,
    linear_combination,
    scaled_sum,
    uniform,
)

# Cores are float32, so smaller singular values, relative to the largest, are rounding.
_ROUNDING = 1e-6


def weighted_sum(basis: Basis, weights: Sequence[float]) -> Genome:
    """Task arithmetic with a weight per expert: `sum_k w_k tau_k`.

    Args:
      basis: of K experts.
      weights: K factors, in the experts' order; dimensionless.

    Returns:
      The genome, float32 on the host.

    Raises:
      ValueError: the number of weights is not K.
    """
    experts = [expert_genome(basis, k) for k in range(basis.num_experts)]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *experts)
    return jax.device_get(linear_combination(batch, np.asarray(weights)))


def closed_form(name: str, basis: Basis, factor: float = 1.0) -> Genome:
    """A closed-form merge times a factor.

    Args:
      name: "sum", "uniform", "tsv_m" or "iso_c".
      basis: of the experts; "tsv_m" and "iso_c" need a `CoreBasis`.
      factor: scales the merged task vector; dimensionless.

    Returns:
      The genome, float32 on the host.

    Raises:
      BadInputError: the basis has residuals, which "tsv_m" and "iso_c" cannot merge.
      ValueError: there is no such merge, or it needs a basis in core form.
    """
    if name == "sum":
        return jax.device_get(scaled_sum(basis, factor))
    if name == "uniform":
        return scaled(uniform(basis), factor)
    if name not in CORE_FORMS:
        raise ValueError(
            f"name: expected sum, uniform, {', '.join(CORE_FORMS)}, got {name!r}."
        )
    if not isinstance(basis, CoreBasis):
        raise ValueError(f"basis: expected a CoreBasis for {name}, got a diagonal one.")
    check_residuals(name, basis)
    experts = np.asarray(basis.experts, np.float64)  # [K, G]
    count = basis.num_experts
    merged = np.zeros(basis.genome_size)
    for slot in basis.layout:
        own = slice(slot.offset, slot.offset + slot.size)
        cores = experts[:, own].reshape(count, slot.rows, slot.columns)
        sides = basis.u[slot.name].shape[0], basis.v[slot.name].shape[0]
        merged[own] = CORE_FORMS[name](cores, sides).ravel()
    unit = Genome(merged, np.full(count, 1 / count))
    return scaled(unit, factor)


def check_residuals(name: str, basis: Basis) -> None:
    """Refuses the residuals of a basis for a merge of singular directions.

    Args:
      name: of the merge.
      basis: or its shapes.

    Raises:
      BadInputError: there are some.
    """
    if name in CORE_FORMS and basis.residuals:
        raise BadInputError(
            f"basis.residual: {name} merges singular directions, and what is kept "
            "beside them has none; set it to drop, or basis.rank to full."
        )


def scaled(genome: Genome, factor: float) -> Genome:
    """A genome times a factor: float32, on the host, rounded once."""

    def scale(leaf) -> np.ndarray:
        return np.asarray(factor * np.asarray(leaf, np.float64), np.float32)

    return jax.tree.map(scale, genome)


def tsv_m(cores: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Task Singular Vectors, merged (TSV-M).

    Each of K experts keeps its `min(out, in) // K` largest singular values, at least
    one. Its singular vectors are put beside those of all others. Both stacks are
    replaced by the nearest ones with orthonormal columns: `P Q^T` of their SVD
    `P D Q^T`, without the columns of zero singular values.

    Args:
      cores: the experts' task vectors of one matrix in orthonormal coordinates, float64
        `[K, Ru, Rv]`.
      sides: out and in of the whole matrix.

    Returns:
      The merged core, float64 `[Ru, Rv]`.
    """
    keep = max(min(sides) // len(cores), 1)
    lefts, values, rights = [], [], []
    for core in cores:
        u, s, vt = _svd(core)
        lefts.append(u[:, :keep])
        values.append(s[:keep])
        rights.append(vt[:keep].T)
    left = _orthonormal(np.concatenate(lefts, axis=1))
    right = _orthonormal(np.concatenate(rights, axis=1))
    return (left * np.concatenate(values)) @ right.T


def iso_c(cores: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Isotropic merging in the common subspace (Iso-C).

    The mean is over the singular values of the sum that are not zero: the sum of a few
    LoRAs has no directions for the others. Arguments and result as for `tsv_m`.
    """
    u, s, vt = _svd(np.sum(cores, axis=0))
    return s.mean() * (u @ vt) if s.size else u @ vt


CORE_FORMS = {"tsv_m": tsv_m, "iso_c": iso_c}


def _svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The SVD without singular values that are zero but for rounding."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    rank = np.count_nonzero(s > _ROUNDING * s.max(initial=0.0))
    return u[:, :rank], s[:rank], vt[:rank]


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """The nearest matrix with orthonormal columns; an orthogonal Procrustes problem."""
    p, _, qt = _svd(columns)
    return p @ qt
