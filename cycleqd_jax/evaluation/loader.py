"""Loads individuals into an engine and runs coroutines on each of them.

In factored mode genomes are rows of one population and share every pass of the engine.
All other individuals run alone, one after the other, with weights of their own.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Literal

from cycleqd_jax.evaluation.whole import WeightsSource
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.gradients import CoefficientGradients
from cycleqd_jax.inference.population import (
    Population,
    empty_population,
    with_individual,
)
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.models.base import Weights

# Individual's name, its index in the engine's population -> coroutines to run at once.
Jobs = Callable[[str, int], Iterable[Coroutine[Any, Any, Any]]]


@dataclasses.dataclass
class IndividualLoader:
    """Runs jobs on individuals in one engine.

    Attributes:
      engine: generates replies; nothing else may load weights into it.
      weights: the base model's, on the device; `{}` if every individual brings its own.
      basis: the basis that genomes refer to; None if no individual is a genome.
      mode: "factored" or "materialised", how genomes are evaluated.
      individuals_per_pass: genomes that share a pass in factored mode.
      noise: source of the genomes' Gaussian noise, if they have any.
      whole: gives the weights of individuals that are not genomes; None if there are
        none.
      one_form: whole weights are loaded beside an empty population, so that in factored
        mode they run the programs of genomes and need none of their own.
    """

    engine: Engine
    weights: Weights
    basis: Basis | None = None
    mode: Literal["factored", "materialised"] = "materialised"
    individuals_per_pass: int = 1
    noise: NoiseSource | None = None
    whole: WeightsSource | None = None
    one_form: bool = False
    _gradients: CoefficientGradients | None = dataclasses.field(
        default=None, init=False
    )
    _empty: Population | None = dataclasses.field(default=None, init=False)
    _population: Population | None = dataclasses.field(default=None, init=False)
    # Weights of the last materialised genome; the next one reuses their memory.
    _reusable: Weights | None = dataclasses.field(default=None, init=False)

    def compile(self, progress: Callable[[str], None] | None = None) -> None:
        """Compiles the engine's programs, so that the first jobs do not wait.

        Args:
          progress: is told of each program.
        """
        if self.mode == "factored":
            self.share()
        else:
            self.load_alone(None)
        self.engine.compile(progress)

    def gradients(self) -> CoefficientGradients:
        """Computes gradients of genomes in calls of about a prefill call's tokens.

        Raises:
          BadInputError: these genomes have none; see `check_differentiable`.
        """
        if self._gradients is None:
            self._gradients = self.engine.gradients(
                self.basis, self.individuals_per_pass
            )
        return self._gradients

    async def run(
        self, individuals: Mapping[str, Individual | None], jobs: Jobs
    ) -> list[list[Any]]:
        """Runs the jobs of every individual.

        Args:
          individuals: by name; None is the base model.
          jobs: called when an individual is loaded.

        Returns:
          One list per individual with the results of its jobs, both in order.

        Raises:
          Exception: the first error of a job or of the engine; all jobs have been
            cancelled by then.
        """
        results = []
        for names in self._groups(individuals):
            group = {name: individuals[name] for name in names}
            results += await self._run_group(group, jobs)
        return results

    async def _run_group(
        self, group: Mapping[str, Individual | None], jobs: Jobs
    ) -> list[list[Any]]:
        """Runs the jobs of a group; each individual starts when a row is free."""
        free: asyncio.Queue[int] = asyncio.Queue()
        first = next(iter(group.values()))
        sharing = self._shares_passes(first)
        if sharing:
            self.share()
            for row in range(self.individuals_per_pass):
                free.put_nowait(row)
        else:
            self.load_alone(first)
            free.put_nowait(0)

        async def run_jobs(name: str, row: int) -> list[Any]:
            running = [tasks.create_task(job) for job in jobs(name, row)]
            results = [await one for one in running]
            free.put_nowait(row)
            return results

        try:
            async with asyncio.TaskGroup() as tasks:
                server = tasks.create_task(self.engine.serve())
                running = []
                for name, genome in group.items():
                    row = await free.get()
                    if sharing:
                        self.set_row(row, genome)
                    running.append(tasks.create_task(run_jobs(name, row)))
                results = [await one for one in running]
                server.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return results

    def _groups(self, individuals: Mapping[str, Any]) -> Iterator[list[str]]:
        """Names in order: genomes that share passes together, all others alone."""
        sharing: list[str] = []
        for name, individual in individuals.items():
            if self._shares_passes(individual):
                sharing.append(name)
                continue
            if sharing:
                yield sharing
                sharing = []
            yield [name]
        if sharing:
            yield sharing

    def _shares_passes(self, individual: Individual | None) -> bool:
        return self.mode == "factored" and isinstance(individual, Genome)

    # Processes that share a mesh do all that follows alike, told by the first.

    def share(self) -> None:
        """Loads a population into the engine whose rows are all the base model."""
        with self.engine.relay.telling("share"):
            self._reusable = None
            self._population = self._base_only()
            self.engine.load(self.weights, self._population)

    def _base_only(self) -> Population:
        """Rows that are all the base model."""
        if self._empty is None:
            # Always of one size, so that programs compile once.
            empty = empty_population(self.basis, self.individuals_per_pass)
            self._empty = self.engine.place(empty)
        return self._empty

    def set_row(self, row: int, genome: Genome) -> None:
        """Puts a genome into a row of the population."""
        genome = self.engine.relay.plain(genome)
        with self.engine.relay.telling("set_row", row, genome):
            self._population = with_individual(
                self._population, self.basis, genome, row
            )
            self.engine.replace(self._population)

    def load_alone(self, individual: Individual | None) -> None:
        """Loads the whole weights of one individual into the engine."""
        if isinstance(individual, Genome):
            individual = self.engine.relay.plain(individual)
        with self.engine.relay.telling("load_alone", individual):
            self._population = None
            self._load_alone(individual)

    def _load_alone(self, individual: Individual | None) -> None:
        self.engine.load({})  # two individuals' weights need not fit at once
        old, self._reusable = self._reusable, None
        if individual is None:
            weights = self.weights
        elif isinstance(individual, Genome):
            weights = materialise(
                self.weights, self.basis, individual, self.noise, into=old
            )
            if self.noise is None:  # with noise, all weights are new arrays anyway
                self._reusable = weights
        else:
            del old
            weights = self.whole.weights(individual)
        beside = self.one_form and self.mode == "factored"
        self.engine.load(weights, self._base_only() if beside else None)
