"""What archives and bank will need: said before a run, refused if it cannot fit."""

from typing import NamedTuple

from cycleqd_jax.errors import BadInputError


class MemoryPlan(NamedTuple):
    """Sizes of a run's state, in bytes where not said otherwise.

    Attributes:
      cells_per_archive: bins ** (K - 1).
      num_cells: of all K archives.
      grid_bytes: the repertoires.
      genome_bytes: one genome.
      num_genomes: at most so many lie in the bank at once.
      bank_bytes: those genomes, and the scores and ancestry of all individuals.
      num_individuals: experts and children of the whole run.
    """

    cells_per_archive: int
    num_cells: int
    grid_bytes: int
    genome_bytes: int
    num_genomes: int
    bank_bytes: int
    num_individuals: int

    @property
    def total_bytes(self) -> int:
        """Grids and bank."""
        return self.grid_bytes + self.bank_bytes

    @property
    def checkpoint_bytes(self) -> int:
        """One checkpoint, on disk; while it is written, as much memory again."""
        return self.total_bytes

    @property
    def advice(self) -> str | None:
        """A warning where the grid is finer than the run can fill, else None."""
        if self.cells_per_archive <= 10 * self.num_individuals:
            return None
        return (
            f"Each archive has {self.cells_per_archive} cells for "
            f"{self.num_individuals} individuals, so almost every child finds an "
            "empty cell; fewer bins make them compete."
        )


def memory_plan(
    *,
    num_tasks: int,
    bins: int,
    genome_size: int,
    num_generations: int,
    children_per_batch: int,
    noise_size: int = 0,
) -> MemoryPlan:
    """Plans the memory of archives and bank.

    A genome is one float32 per coefficient, expert and entry of its noise. How many
    coefficients depends on its kind: `genome_size` of the basis in diagonal or core
    form.

    Args:
      num_tasks: K.
      bins: bins per task.
      genome_size: G, coefficients of a genome.
      num_generations: children of the whole run.
      children_per_batch: P; their genomes lie beside those of the elites.
      noise_size: N, entries for the noise of generations; 0 without Gaussian mutation.
    """
    cells = bins ** (num_tasks - 1)
    num_cells = num_tasks * cells
    # An int32 id, a float32 quality, K - 1 descriptors and centroids, K scores.
    grid_bytes = num_cells * 4 * (1 + 1 + 2 * (num_tasks - 1) + num_tasks)
    individuals = num_tasks + num_generations
    num_genomes = min(num_cells + num_tasks + children_per_batch, individuals)
    genome_bytes = 4 * (genome_size + num_tasks + noise_size)
    # K float64 scores, two parents, their weights, the active task, a flag.
    record_bytes = 8 * num_tasks + 4 * (2 + 2 + 1) + 1
    return MemoryPlan(
        cells_per_archive=cells,
        num_cells=num_cells,
        grid_bytes=grid_bytes,
        genome_bytes=genome_bytes,
        num_genomes=num_genomes,
        bank_bytes=num_genomes * genome_bytes + individuals * record_bytes,
        num_individuals=individuals,
    )


def check_memory_plan(
    plan: MemoryPlan, available_bytes: int, *, max_cells: int = 10_000_000
) -> None:
    """Refuses a plan that does not fit.

    Args:
      plan: from `memory_plan`.
      available_bytes: what the machine has for archives and bank.
      max_cells: most cells of all archives; every proposal looks at all of them.

    Raises:
      BadInputError: with the numbers, and what to change.
    """
    if plan.num_cells > max_cells:
        raise BadInputError(
            f"bins: {plan.num_cells} cells in all archives are more than {max_cells}; "
            "choose fewer bins or fewer tasks."
        )
    if plan.total_bytes > available_bytes:
        raise BadInputError(
            f"bins: the archives need {size_text(plan.grid_bytes)} for "
            f"{plan.num_cells} cells and the bank {size_text(plan.bank_bytes)} for "
            f"{plan.num_genomes} genomes of {size_text(plan.genome_bytes)}, but only "
            f"{size_text(available_bytes)} are there; choose fewer bins or a lower "
            "basis rank."
        )


def size_text(size: float) -> str:
    """A number of bytes for readers, like "8.75 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 999.5 else f"{size:,.0f} TB"
