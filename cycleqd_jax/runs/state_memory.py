"""The memory of a search's state: its archives and its bank of genomes."""

from typing import NamedTuple

import jax
import numpy as np

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome, expert_genome
from cycleqd_jax.merging.noise import noise_length
from cycleqd_jax.qd.archives import empty_archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.runs.device_memory import tree_bytes
from cycleqd_jax.search.registry import search_class

MAX_CELLS = 10_000_000  # of all archives; breeding a child looks at every cell


class StateMemory(NamedTuple):
    """Archives and bank at their largest; sizes in bytes.

    Attributes:
      cells: of all K archives.
      grid_bytes: size of the archives.
      genomes: kept in the bank at one time, those of a batch of children included.
      genome_bytes: size of one genome.
      individuals: experts and children of the whole run.
      bank_bytes: size of the genomes, and of every individual's scores and ancestry.
    """

    cells: int
    grid_bytes: int
    genomes: int
    genome_bytes: int
    individuals: int
    bank_bytes: int

    @property
    def total_bytes(self) -> int:
        """Size of archives and bank, which is also that of one checkpoint."""
        return self.grid_bytes + self.bank_bytes


def state_memory(config: RunConfig, basis: Basis) -> StateMemory:
    """The size of archives and bank.

    Args:
      config: the settings.
      basis: of the genomes, or its shapes.

    Raises:
      BadInputError: there are more than `MAX_CELLS` cells.
    """
    qd, tasks = config.qd, len(config.tasks)
    cells = search_class(config.search).cells(qd, tasks)
    by_retention = config.retention.descriptor
    if by_retention:  # one more dimension of every archive
        cells *= qd.bins
    if cells > MAX_CELLS:
        more = ", or set retention.descriptor to false" if by_retention else ""
        raise BadInputError(
            f"qd.bins: {qd.bins} bins and {tasks} tasks make {cells} cells in all "
            f"archives, more than {MAX_CELLS}; choose fewer bins or fewer tasks{more}."
        )
    smooth, unit = config.fitness.smooth, (0.0, 1.0)
    archives = jax.eval_shape(
        lambda: empty_archives(
            [unit] * tasks,
            qd.bins,
            smooth=smooth,
            retention=unit if by_retention else None,
        )
    )
    grid = sum(one.genotypes.size for one in archives.repertoires)
    genome = tree_bytes(jax.eval_shape(lambda b: expert_genome(b, 0), basis))
    if config.noise is not None:
        genome += 4 * noise_length(qd.num_generations)
    no_genome = Genome(np.zeros(0, np.float32), np.zeros(0, np.float32))
    experts = basis.num_experts
    one = Bank.empty(tasks, experts).add_expert(no_genome, [0.0] * tasks)
    facts = (one.scores, one.parents, one.weights, one.active, one.complete)
    facts += (one.smooth,) if smooth else ()
    facts += (one.retention,) if by_retention else ()
    individuals = experts + qd.num_generations
    genomes = min(cells + experts + qd.children_per_batch, individuals)
    return StateMemory(
        cells=cells,
        grid_bytes=tree_bytes(archives) * cells // grid,
        genomes=genomes,
        genome_bytes=genome,
        individuals=individuals,
        bank_bytes=genomes * genome + individuals * tree_bytes(facts),
    )
