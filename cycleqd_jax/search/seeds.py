"""Seeds of the archives: merges in closed form as the first candidates.

Seed i is the candidate of generation i, i = 1..S. So it has an id and a cost, is
evaluated and offered like any child, and a run resumes in the middle of the seeds; it
has no parents. In a conditioned basis the sum of all experts is already a good model,
which crossover of experts alone does not reach.
"""

from collections.abc import Sequence

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.closed_forms import check_residuals, closed_form
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.settings import QDSettings, Seed
from cycleqd_jax.search.base import Candidates, Lineage


def check_seeds(qd: QDSettings, basis: Basis) -> None:
    """Refuses more seeds than children, and those that the basis has no form for.

    Args:
      qd: the settings.
      basis: or its shapes.

    Raises:
      BadInputError: there are too many, or the basis has residuals, which some merges
        cannot have.
    """
    if len(qd.seeds) > qd.num_generations:
        raise BadInputError(
            f"qd.seeds has {len(qd.seeds)} entries and qd.num_generations is "
            f"{qd.num_generations}; expected at least as many, as each seed is a child."
        )
    for seed in qd.seeds:
        if isinstance(seed, str):
            check_residuals(seed, basis)


def seed_genome(seed: Seed, basis: Basis) -> Genome:
    """The genome of a seed: a factor of the sum of all experts, or a merge by name."""
    if isinstance(seed, str):
        return closed_form(seed, basis)
    return closed_form("sum", basis, seed)


def seed_candidates(
    seeds: Sequence[Seed], basis: Basis, ts: Sequence[int]
) -> Candidates:
    """The seeds among the candidates of some generations; empty if there are none."""
    own = tuple(t for t in ts if t <= len(seeds))
    genomes = tuple(seed_genome(seeds[t - 1], basis) for t in own)
    return Candidates(own, genomes, (Lineage(),) * len(own))


def joined(first: Candidates, second: Candidates) -> Candidates:
    """Candidates of consecutive generations, one after the other."""
    return Candidates(*(a + b for a, b in zip(first, second, strict=True)))
