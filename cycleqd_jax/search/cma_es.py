"""CMA-ES over one factor per expert and kind of matrix.

    tau = sum_k f[k, kind] tau_k      for every matrix of that kind, like all `q_proj`

The fitness is the mean score over all tasks. A batch of children is a population: it is
drawn from one normal distribution, which is updated when all of it is evaluated. Where
the basis has parameters other than matrices, they are a further kind.

Source: Hansen, "The CMA evolution strategy" (arXiv 1604.00772), as in QDax; the start
and the step size are those of evolutionary model merging (arXiv 2403.13187).
"""

import functools
import re
from collections.abc import Sequence
from typing import Annotated

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field
from qdax.baselines.cmaes import CMAES, CMAESState
from qdax.custom_types import RNGKey

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import Section, parse_section
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.elites import mean_score, mean_smooth
from cycleqd_jax.search import by_mean
from cycleqd_jax.search.base import (
    Candidates,
    Champions,
    Context,
    Lineage,
    Outcome,
    Search,
    State,
    Status,
    add_candidates,
)

_LEAST = 3  # children of a population, of whom at least two are selected


class CMAESSettings(Section):
    """`search_settings` of CMA-ES.

    Attributes:
      start: every factor of the first mean.
      sigma: the first standard deviation of a factor.
    """

    start: Annotated[float, Field(ge=-10, le=10)] = 0.5
    sigma: Annotated[float, Field(gt=0, le=10)] = 1 / 6


@flax.struct.dataclass
class Memory:
    """CMA-ES's memory beside the bank.

    Letters: P children of a population, D factors.

    Attributes:
      cma: the distribution: QDax's state, of float32 and int32 arrays.
      samples: float32 `[P, D]`, factors of the population's evaluated children.
      fitness: float64 `[P]`, their mean scores.
      smooth: float64 `[P]`, their mean smooth scores; minus infinity without any.
      complete: bool `[P]`, whether they were evaluated on all problems.
      count: int32 `[]`, how many of the P rows are filled.
    """

    cma: CMAESState
    samples: np.ndarray
    fitness: np.ndarray
    smooth: np.ndarray
    complete: np.ndarray
    count: np.ndarray


class Factors:
    """Translates between factors `[D]` and genomes of a basis.

    The D factors are in the order of kinds, and of experts within a kind.
    """

    def __init__(self, basis: Basis):
        self._basis = basis
        names = [re.sub(r"\.\d+(?=\.|$)", "", slot.name) for slot in basis.layout]
        self._kinds = sorted(set(names))
        places = [self._kinds.index(name) for name in names]
        sizes = [slot.size for slot in basis.layout]
        self._kind_of = np.repeat(np.asarray(places, np.int64), sizes)  # [G]
        self._has_scales = bool(basis.deltas or basis.residuals)

    @property
    def size(self) -> int:
        """D."""
        kinds = len(self._kinds) + self._has_scales
        return kinds * self._basis.num_experts

    @functools.cached_property
    def _experts(self) -> np.ndarray:
        """The experts' coefficients, float64 `[E, G]`."""
        every = range(self._basis.num_experts)
        found = [self._basis.expert_coefficients(k) for k in every]
        return np.asarray(jax.device_get(found), np.float64)

    @functools.cached_property
    def _inverses(self) -> list[np.ndarray]:
        """Per kind the inverse of the experts' scalar products, `[E, E]`."""
        parts = [self._experts[:, self._kind_of == i] for i in range(len(self._kinds))]
        return [np.linalg.pinv(part @ part.T, hermitian=True) for part in parts]

    def genome(self, factors: np.ndarray) -> Genome:
        """The genome of some factors: summed in float64, rounded once to float32."""
        table = np.asarray(factors, np.float64).reshape(-1, self._basis.num_experts)
        matrices = table[: len(self._kinds)]  # [kinds, E]
        coefficients = np.einsum("ge,eg->g", matrices[self._kind_of], self._experts)
        scales = table[-1] if self._has_scales else matrices.mean(axis=0)
        return Genome(coefficients.astype(np.float32), scales.astype(np.float32))

    def of(self, genome: Genome) -> np.ndarray:
        """The factors of a genome that `genome` made, float64 `[D]`.

        If experts depend on each other linearly, the shortest of the possible ones.
        """
        coefficients = np.asarray(genome.coefficients, np.float64)
        found = []
        for i, inverse in enumerate(self._inverses):
            mask = self._kind_of == i
            found.append(inverse @ (self._experts[:, mask] @ coefficients[mask]))
        if self._has_scales:
            found.append(np.asarray(genome.scales, np.float64))
        return np.concatenate(found)


class CMAESearch(Search):
    """CMA-ES; its memory is a `Memory`.

    Raises:
      BadInputError: `search_settings` are not those of `CMAESSettings`, or a population
        has too few children.
    """

    def __init__(self, context: Context):
        super().__init__(context)
        settings = parse_section("search_settings", context.options, CMAESSettings)
        self._population = context.qd.children_per_batch
        if self._population < _LEAST:
            raise BadInputError(
                f"qd.children_per_batch is {self._population}; CMA-ES needs "
                f"at least {_LEAST}, because a batch is its population."
            )
        # QDax takes half of them, and cannot take one.
        self._selected = max(self._population // 2, 2)
        self._factors = Factors(context.basis)
        size = self._factors.size
        self._cma = CMAES(
            population_size=self._population,
            search_dim=size,
            fitness_function=_unused,
            num_best=self._selected,
            init_sigma=settings.sigma,
            mean_init=jnp.full(size, settings.start, jnp.float32),
        )
        self._draw = jax.jit(_draw)
        self._update = jax.jit(self._cma.update_state)

    def init(
        self,
        experts: Sequence[Genome],
        scores: np.ndarray,
        smooth: np.ndarray | None = None,
    ) -> State:
        """The experts are the first individuals; no child was evaluated."""
        memory = Memory(
            cma=_to_arrays(self._cma.init()),
            samples=np.zeros((self._population, self._factors.size), np.float32),
            fitness=np.zeros(self._population),
            smooth=np.full(self._population, -np.inf),
            complete=np.zeros(self._population, bool),
            count=np.int32(0),
        )
        return State(by_mean.expert_bank(experts, scores, smooth), 1, memory)

    def ask(self, state: State, key: RNGKey, ts: Sequence[int]) -> Candidates:
        """Draws the factors of child t with `fold_in(key, t)`."""
        # One at a time: rounding may depend on the number that are drawn together.
        drawn = [self._draw(state.memory.cma, jax.random.fold_in(key, t)) for t in ts]
        genomes = tuple(self._factors.genome(one) for one in jax.device_get(drawn))
        return Candidates(tuple(ts), genomes, (Lineage(),) * len(genomes))

    def tell(
        self, state: State, candidates: Candidates, outcomes: Sequence[Outcome]
    ) -> State:
        """Records the children; a full population updates the distribution."""
        bank = by_mean.prune(add_candidates(state.bank, candidates, outcomes))
        memory = state.memory
        for genome, outcome in zip(candidates.genomes, outcomes, strict=True):
            memory = self._learn(memory, genome, outcome)
        return State(bank, candidates.ts[-1] + 1, memory)

    def _learn(self, memory: Memory, genome: Genome, outcome: Outcome) -> Memory:
        row = int(memory.count)
        memory = memory.replace(
            samples=_with(memory.samples, row, self._factors.of(genome)),
            fitness=_with(memory.fitness, row, mean_score(outcome.scores)),
            smooth=_with(memory.smooth, row, mean_smooth(outcome.smooth or ())),
            complete=_with(memory.complete, row, outcome.status is Status.COMPLETE),
            count=np.int32(row + 1),
        )
        if row + 1 < self._population:
            return memory
        # The best first: children that were given up come last, equal ones by t.
        order = np.lexsort(
            (np.arange(row + 1), -memory.smooth, -memory.fitness, ~memory.complete)
        )
        selected = memory.samples[order[: self._selected]]
        cma = _to_arrays(self._update(memory.cma, selected))
        if bool(self._cma.stop_condition(cma)):  # it has converged or broken down
            cma = _to_arrays(self._cma.init().replace(mean=selected[0]))
        return memory.replace(cma=cma, count=np.int32(0))

    def champions(self, state: State) -> Champions:
        """One group: all individuals by their mean score."""
        return by_mean.champions(state.bank)

    def metrics(self, state: State) -> dict[str, float | str]:
        """Best scores (`by_mean.metrics`), and the step size as `sigma`."""
        found = by_mean.metrics(state.bank, self.context.tasks)
        return found | {"sigma": float(state.memory.cma.sigma)}


def _with(array: np.ndarray, row: int, value: np.ndarray | float) -> np.ndarray:
    """A copy of an array with another row."""
    copy = np.array(array)
    copy[row] = value
    return copy


def _draw(cma: CMAESState, key: RNGKey) -> jax.Array:
    """One sample of the distribution, float32 `[D]`."""
    covariance = cma.sigma**2 * cma.cov_matrix
    return jax.random.multivariate_normal(key, cma.mean, covariance)


def _to_arrays(cma: CMAESState) -> CMAESState:
    """QDax mixes Python numbers and arrays; here types must never change."""

    def convert(leaf) -> np.ndarray:
        array = np.asarray(leaf)
        return array.astype(np.int32 if array.dtype.kind in "iu" else np.float32)

    return jax.tree.map(convert, cma)


def _unused(_) -> jax.Array:
    raise NotImplementedError("Children are evaluated by the run.")
