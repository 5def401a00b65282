"""The door for search methods: what a run knows of the search that it carries out.

    state = search.init(experts, scores)
    candidates = search.ask(state, key, ts)
    state = search.tell(state, candidates, outcomes)
    champions = search.champions(state)

A search never evaluates anything and never keeps anything between calls: what it learns
is in its state, so a run that restores a state goes on as if it had never stopped. A
search that needs a gradient or a log-probability before it can propose returns a
request from `ask`; it is asked again with the answer.
"""

import abc
import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np
from qdax.custom_types import RNGKey

from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.qd.aggregation import Contender
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.search.requests import Answer, Request


class Context(NamedTuple):
    """The arguments of a search.

    Attributes:
      qd: the section `qd` of the config: number of children, batch size, operators.
      options: the section `search_settings`, which only this search reads.
      basis: of the genomes; its `expert_names` are the experts, in their order.
      tasks: K names, in the order of scores.
      entries: the same tasks as the config names them; keys of settings by task.
      train: task name -> ids of its `train` problems with a reference answer, which
        requests may name. Tasks without such problems have no entry; empty for a search
        that `uses_train` denies them.
    """

    qd: QDSettings
    options: Mapping[str, Any]
    basis: Basis
    tasks: tuple[str, ...]
    entries: tuple[str, ...]
    train: Mapping[str, tuple[str, ...]] = {}

    @property
    def own_experts(self) -> tuple[int, ...]:
        """Per task its expert, 0-based: the one of its name; -1 where there is none."""
        place = {name: k for k, name in enumerate(self.basis.expert_names)}
        return tuple(place.get(task, -1) for task in self.tasks)


class Status(enum.StrEnum):
    """The extent of the evaluation that an outcome rests on."""

    COMPLETE = "complete"  # all problems
    REJECTED = "rejected"  # some problems; an evaluator gave up on the individual


class Outcome(NamedTuple):
    """The result of evaluating one candidate.

    Attributes:
      scores: K mean scores in [0, 1], Python floats.
      status: whether all problems were evaluated.
      problems: task name -> ids of the problems that the scores rest on.
      smooth: K smooth scores: mean log-probability per token of right answers on the
        same problems, in nats; NaN for a task without known answers. None where the run
        computes none.
      retention: share of the base's probability of plain text that it keeps, in [0, 1];
        None where the run does not measure it.
    """

    scores: tuple[float, ...]
    status: Status = Status.COMPLETE
    problems: Mapping[str, tuple[str, ...]] = {}
    smooth: tuple[float, ...] | None = None
    retention: float | None = None


class Lineage(NamedTuple):
    """The origin of a candidate.

    Attributes:
      parents: ids of two individuals in the bank, whose genomes may have been pruned;
        empty if it has none. Of more parents, the two that matter most.
      weights: as many raw crossover weights as parents; NaN where there are none.
      active: the task whose archive it was bred from, 0-based; None without archives.
    """

    parents: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    active: int | None = None


class Candidates(NamedTuple):
    """P individuals to evaluate.

    Attributes:
      ts: their generations, from 1, consecutive.
      genomes: P genomes, `[G]` and `[E]` float32 on the host, or recipes.
      lineage: P entries.
      notes: P entries that `tell` gets back beside the candidates, in whatever form the
        search likes; empty if it needs none.
    """

    ts: tuple[int, ...]
    genomes: tuple[Genome | Recipe, ...]
    lineage: tuple[Lineage, ...]
    notes: tuple[Any, ...] = ()


@flax.struct.dataclass
class State:
    """The best models that a search has found.

    Attributes:
      bank: every individual: genome, scores, ancestry.
      next_generation: the t that comes next, from 1; int.
      memory: what else the search needs: a pytree of arrays whose shapes never change.
    """

    bank: Bank = flax.struct.field(pytree_node=False)
    next_generation: int = flax.struct.field(pytree_node=False)
    memory: Any = ()


class Champions(NamedTuple):
    """The best that a search has found.

    Attributes:
      contenders: group name -> its best individuals, the best first. One champion is
        chosen of each group, and the champions are aggregated. CycleQD has one group
        per archive, named after its task.
      best: id of the individual with the highest mean score on `optimise`, an expert's
        included.
    """

    contenders: Mapping[str, tuple[Contender, ...]]
    best: int


class Summary(NamedTuple):
    """Facts of a search for readers of a finished run.

    Attributes:
      facts: anything JSON can write; goes into `state.json`.
      archives: one row per occupied cell of an archive, with the id of its elite as
        `individual`; becomes `archives.parquet`.
    """

    facts: Mapping[str, Any] = {}
    archives: Sequence[Mapping[str, Any]] = ()


class Search(abc.ABC):
    """A search method, made as `SearchClass(context)` with a `Context`."""

    def __init__(self, context: Context):
        self.context = context

    @classmethod
    def basis_form(cls, qd: QDSettings, options: Mapping[str, Any]) -> str:
        """The form of basis that it needs: "diagonal" or "core"."""
        return "diagonal"

    @classmethod
    def cells(cls, qd: QDSettings, num_tasks: int) -> int:
        """The number of cells of all its archives, for the plan of memory.

        A search without archives returns 0. The bins of retention, which multiply it
        where that is a behaviour, are not in it.
        """
        return num_tasks * qd.bins ** (num_tasks - 1)

    @classmethod
    def uses_noise(cls, qd: QDSettings) -> bool:
        """True if its genomes hold Gaussian noise (`merging.noise`)."""
        return False

    @classmethod
    def is_seeded(cls, options: Mapping[str, Any]) -> bool:
        """False if it proposes the same with every seed."""
        return True

    @classmethod
    def uses_train(cls, qd: QDSettings, options: Mapping[str, Any]) -> str | None:
        """The setting whose requests need known answers of `train` problems, or None.

        Messages name it, so it is written as in a config: "qd.mutation: gradient".
        """
        return None

    @classmethod
    def uses_accepted(cls, qd: QDSettings, options: Mapping[str, Any]) -> bool:
        """True if it makes an `AcceptedRequest`, with these settings."""
        return False

    @classmethod
    def uses_gradients(cls, qd: QDSettings, options: Mapping[str, Any]) -> bool:
        """True if it makes a `GradientRequest`, with these settings."""
        return False

    @property
    def any_order(self) -> bool:
        """True if it may be told candidates in the order in which they arrive.

        `ask` then gets generations that come after those of candidates still being
        evaluated, and `tell` gets candidates numbered anew, in order of arrival.
        """
        return False

    @abc.abstractmethod
    def init(
        self,
        experts: Sequence[Genome],
        scores: np.ndarray,
        smooth: np.ndarray | None = None,
        retention: np.ndarray | None = None,
    ) -> State:
        """The state before generation 1.

        Args:
          experts: E genomes, in the order of `context.basis.expert_names`.
          scores: float64 `[E, K]`; row k has expert k's scores on all tasks.
          smooth: like `scores`, the smooth scores (see `Outcome`); None without them. A
            search that makes nothing of them may leave the parameter out.
          retention: float64 `[E]`, the experts' retention (see `Outcome`); None where
            it is no behaviour. A search that has the parameter gives each archive one
            more dimension of `qd.bins` bins for it, with which memory is planned.
        """

    @abc.abstractmethod
    def ask(
        self,
        state: State,
        key: RNGKey,
        ts: Sequence[int],
        answers: Sequence[Answer] = (),
    ) -> Candidates | Request:
        """Proposes the candidates of some generations, or asks for something first.

        Args:
          state: as `init` or `tell` returned it.
          key: one typed key, the same for the whole run: candidate t must depend on
            `fold_in(key, t)`, the state and the answers alone.
          ts: P consecutive generations, from `state.next_generation`; see `any_order`.
          answers: to the requests that it returned for these generations, in order. A
            search that returns no requests may leave the parameter out.
        """

    @abc.abstractmethod
    def tell(
        self, state: State, candidates: Candidates, outcomes: Sequence[Outcome]
    ) -> State:
        """The state after some candidates were evaluated.

        Args:
          state: that the candidates were asked from, or one that was told the
            candidates before them.
          candidates: in order of t, beginning at `state.next_generation`.
          outcomes: one per candidate. A run tells one candidate at a time, so a search
            whose generations are larger collects them in its memory.
        """

    @abc.abstractmethod
    def champions(self, state: State) -> Champions:
        """The best individuals; all of them have their genomes in the bank."""

    def metrics(self, state: State) -> dict[str, float | str]:
        """Numbers that show progress; the names are always the same.

        Those of the form `best/NAME` are shown after every batch. By default they are
        the best scores of completely evaluated individuals, by task.
        """
        best = state.bank.scores[state.bank.complete].max(axis=0)
        names = self.context.tasks
        return {f"best/{name}": float(b) for name, b in zip(names, best, strict=True)}

    def summary(self, state: State) -> Summary:
        """Facts that readers of the finished run need beside its champions."""
        return Summary()


def candidate(candidates: Candidates, index: int) -> Candidates:
    """One of some candidates, as candidates of their own."""
    one = slice(index, index + 1)
    return Candidates(*(field[one] for field in candidates))


def add_candidates(
    bank: Bank, candidates: Candidates, outcomes: Sequence[Outcome]
) -> Bank:
    """The bank with evaluated candidates; every search does this when it is told."""
    for genome, lineage, outcome in zip(
        candidates.genomes, candidates.lineage, outcomes, strict=True
    ):
        bank = bank.add_child(
            genome,
            outcome.scores,
            parents=lineage.parents,
            weights=lineage.weights,
            active=-1 if lineage.active is None else lineage.active,
            complete=outcome.status is Status.COMPLETE,
            smooth=outcome.smooth,
            retention=outcome.retention,
        )
    return bank


def to_host(genomes: Genome) -> tuple[Genome, ...]:
    """A batch of genomes `[P, ...]` as P genomes of NumPy arrays."""
    batch = jax.device_get(genomes)
    return tuple(batch[i] for i in range(np.shape(batch.coefficients)[0]))
