"""Facts of a basis: the energy that it keeps, the similarity of the experts.

Source: CycleQD (arXiv 2410.14735) for the similarity of models.
"""

from typing import NamedTuple

import numpy as np

from cycleqd_jax.merging.forms import Basis


class EnergyRow(NamedTuple):
    """The energy that a basis keeps of one matrix of one expert's task vector.

    Attributes:
      name: the matrix.
      expert: the expert's name.
      energy: squared Frobenius norm of the task vector.
      kept: the share of it that the basis keeps, 0-1.
    """

    name: str
    expert: str
    energy: float
    kept: float


def energy_report(basis: Basis) -> list[EnergyRow]:
    """The matrices and experts that the basis does not keep in full.

    Empty for a full-rank basis. An expert that loses much is a changed expert and
    should be scored again as its genome.
    """
    energy, kept = np.asarray(basis.energy), np.asarray(basis.energy_kept)
    return [
        EnergyRow(slot.name, expert, float(energy[i, k]), float(kept[i, k]))
        for i, slot in enumerate(basis.layout)
        for k, expert in enumerate(basis.expert_names)
        if kept[i, k] < 1.0
    ]


def expert_energy_kept(basis: Basis) -> dict[str, float]:
    """Expert's name -> share of the energy of all its matrices that is kept, 0-1."""
    energy = np.asarray(basis.energy, np.float64)
    kept = (energy * np.asarray(basis.energy_kept, np.float64)).sum(axis=0)
    total = energy.sum(axis=0)
    shares = np.where(total > 0, kept / np.where(total > 0, total, 1), 1)
    return dict(zip(basis.expert_names, shares.tolist(), strict=True))


class Similarity(NamedTuple):
    """The similarity of two experts.

    Attributes:
      first: the name of one expert.
      second: the name of the other.
      cosine: mean over matrices of the cosine between their singular values, 0-1.
    """

    first: str
    second: str
    cosine: float


def similarities(basis: Basis) -> list[Similarity]:
    """The similarity of every pair of experts, which predicts how well they merge.

    The paper correlates it with the score of the merged model (0.83). A matrix that
    only one of the two changes counts as 0; a matrix that neither changes does not
    count.
    """
    names, cosines = basis.expert_names, np.asarray(basis.similarity, np.float64)
    return [
        Similarity(names[i], names[j], float(cosines[i, j]))
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]
