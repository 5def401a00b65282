"""A user's own search, whose mistakes end in one sentence that says what to mend.

`CheckedSearch` stands for it in a run and checks what it returns. `rehearse` plays one
batch with made-up scores before a run begins, so that most mistakes cost nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cycleqd_jax.errors import MEND_CODE, BadInputError, RunError, own_code, show
from cycleqd_jax.merging.genome import Genome, expert_genome
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.qd.aggregation import Contender
from cycleqd_jax.search.base import (
    Candidates,
    Champions,
    Outcome,
    Search,
    State,
    Summary,
    candidate,
)
from cycleqd_jax.search.requests import (
    AcceptedAnswer,
    AcceptedRequest,
    GradientAnswer,
    GradientRequest,
    Request,
    ScoreAnswer,
)

_MOST_REQUESTS = 100  # of one batch


def is_own(kind: type[Search]) -> bool:
    """True for a class that is not of this package."""
    return kind.__module__.partition(".")[0] != "cycleqd_jax"


class CheckedSearch(Search):
    """A search with checks of what its methods return.

    Attributes:
      name: of the search in the config.

    Raises:
      RunError: from every method, if the search raises something or returns what the
        docstrings of `Search` do not allow.
    """

    def __init__(self, search: Search, name: str):
        """Takes the search and its name in the config."""
        super().__init__(search.context)
        self._search, self.name = search, name

    @property
    def any_order(self) -> bool:
        """True if outcomes may be told in any order."""
        return self._search.any_order

    def init(self, experts, scores, **known) -> State:
        """Checks that there are the experts, and memory that can be saved."""
        state = self._call("init", State, experts, scores, **known)
        if state.bank.next_id != len(experts) or state.next_generation != 1:
            self._refuse(
                f"init must return a state with the {len(experts)} experts in its bank "
                f"and next_generation 1, but it has {state.bank.next_id} individuals "
                f"and next_generation {state.next_generation}"
            )
        self._check_memory("init", state)
        return state

    def ask(self, state, key, ts, answers=()) -> Candidates | Request:
        """Checks the number, shapes and values of candidates."""
        more = (answers,) if answers else ()
        got = self._call("ask", Candidates | Request, state, key, ts, *more)
        if not isinstance(got, Candidates):
            return got
        for name, value in got._asdict().items():
            if not isinstance(value, Sequence):
                self._refuse(
                    f"ask must return candidates of tuples (a batch of genomes becomes "
                    f"one by to_host), but {name} is a {type(value).__name__}"
                )
        if tuple(got.ts) != tuple(ts):
            self._refuse(
                f"ask must return candidates of the generations {list(ts)}, but they "
                f"have ts {list(got.ts)}"
            )
        for name in ("genomes", "lineage", "notes"):
            count = len(getattr(got, name))
            if count != len(ts) and (name != "notes" or count):
                self._refuse(
                    f"ask must return {len(ts)} candidates, but {name} has {count}"
                )
        for genome in got.genomes:
            self._check_genome(genome)
        return got

    def tell(self, state, candidates, outcomes) -> State:
        """Checks that all candidates are in the bank, and memory keeps its shapes."""
        new = self._call("tell", State, state, candidates, outcomes)
        known = state.bank.next_id + len(outcomes)
        then = state.next_generation + len(outcomes)
        if (new.bank.next_id, new.next_generation) != (known, then):
            self._refuse(
                f"tell must return a state with {known} individuals in its bank (see "
                f"add_candidates) and next_generation {then}, but it has "
                f"{new.bank.next_id} and {new.next_generation}"
            )
        self._check_memory("tell", new, like=state)
        return new

    def champions(self, state) -> Champions:
        """Checks that there are groups, and genomes of all that are in them."""
        found = self._call("champions", Champions, state)
        groups, ids = found.contenders, [found.best]
        if not isinstance(groups, Mapping) or not groups:
            self._refuse(
                f"champions must have contenders by the name of their group, but has "
                f"{show(groups)}"
            )
        for name, group in groups.items():
            group = group if isinstance(group, Sequence) else ()
            if not group or not all(isinstance(one, Contender) for one in group):
                self._refuse(
                    f"champions must have a tuple of Contenders in the group {name}, "
                    f"but has {show(group)}"
                )
            ids += [one.individual for one in group]
        for one in ids:
            if one not in state.bank.genomes:
                self._refuse(
                    f"champions names the individual {show(one)}, whose genome is not "
                    "in the bank; leave it there when you prune"
                )
        return found

    def metrics(self, state) -> dict[str, float | str]:
        """The metrics of the search."""
        return self._call("metrics", dict, state)

    def summary(self, state) -> Summary:
        """The summary of the search."""
        return self._call("summary", Summary, state)

    def _call(self, method: str, kind: Any, *args, **named) -> Any:
        function: Callable = getattr(self._search, method)
        with own_code(
            f"search: {self.name}: {method}", type(self._search), MEND_CODE, RunError
        ):
            found = function(*args, **named)
        if not isinstance(found, kind):
            names = [k.__name__ for k in getattr(kind, "__args__", (kind,))]
            self._refuse(
                f"{method} must return a {' or '.join(names)}, but returned "
                f"{show(found)}"
            )
        return found

    def _refuse(self, what: str) -> None:
        raise RunError(f"search: {self.name}: {what}; {MEND_CODE}.")

    def _check_genome(self, genome: object) -> None:
        if isinstance(genome, Recipe):
            return
        basis = self.context.basis
        expected = {"coefficients": basis.genome_size, "scales": basis.num_experts}
        if not isinstance(genome, Genome):
            self._refuse(
                f"ask must return genomes or recipes, but returned {show(genome)}"
            )
        for name, size in expected.items():
            leaf = getattr(genome, name)
            found = f"{getattr(leaf, 'dtype', None)}{list(np.shape(leaf))}"
            if found != f"float32[{size}]":
                self._refuse(
                    f"ask must return genomes whose {name} are float32[{size}], but "
                    f"one has {found}"
                )
            if not np.isfinite(leaf).all():
                self._refuse(
                    f"ask must return finite genomes, but the {name} of one hold NaN "
                    "or infinity"
                )

    def _check_memory(self, method: str, state: State, like: State | None = None):
        """Checkpoints hold arrays of numbers, and are read with the shapes of init."""
        for leaf in jax.tree.leaves(state.memory):
            if np.asarray(leaf).dtype.kind not in "biufc":
                self._refuse(
                    f"{method} must return a memory of arrays of numbers, but it holds "
                    f"{show(leaf)}"
                )
        if like is not None and (new := _outline(state)) != (old := _outline(like)):
            self._refuse(
                f"{method} must return a memory of the same structure, shapes and "
                f"dtypes as before, which was {old}, but is {new}"
            )


def rehearse(search: Search, batch: int, *, smooth: bool, retention: bool) -> None:
    """Plays one batch of a user's own search with made-up scores.

    It is asked twice, as the same state and key must give the same candidates.

    Args:
      search: from `runs.search.make_search`; those of this package are let through.
      batch: children per batch.
      smooth: whether the run has smooth scores.
      retention: whether it has retention.

    Raises:
      BadInputError: the search fails, in the words of the run.
    """
    if not isinstance(search, CheckedSearch):
        return
    try:
        _rehearse(search, batch, smooth, retention)
    except RunError as err:
        sentence = str(err).replace(MEND_CODE, "mend it")
        raise BadInputError(f"{sentence} Nothing was begun.") from err


def _rehearse(search: CheckedSearch, batch: int, smooth: bool, retention: bool) -> None:
    basis, tasks = search.context.basis, search.context.tasks
    count = basis.num_experts
    scores = np.asarray(
        [[((i + k) % 3 + 1) / 4 for k in range(len(tasks))] for i in range(count)]
    )
    known: dict[str, np.ndarray] = {}
    if smooth:
        known["smooth"] = -scores
    if retention:
        known["retention"] = scores[:, 0]
    experts = [expert_genome(basis, k) for k in range(count)]
    state = search.init(experts, scores, **known)
    ts, key = tuple(range(1, batch + 1)), jax.random.key(0)
    first, again = (_asked(search, state, key, ts) for _ in range(2))
    for one, other in zip(first.genomes, again.genomes, strict=True):
        same = isinstance(one, Recipe) or jax.tree.all(
            jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-3), one, other)
        )
        if not same:
            raise RunError(
                f"search: {search.name}: ask returned other "
                "candidates when it was asked again with the same state and key; take "
                f"all randomness from fold_in(key, t), so that a run can be resumed; "
                f"{MEND_CODE}."
            )
    problems = {task: () for task in tasks}
    outcomes = [
        Outcome(
            tuple(scores[t % count].tolist()),
            problems=problems,
            smooth=tuple(-scores[t % count]) if smooth else None,
            retention=0.5 if retention else None,
        )
        for t in ts
    ]
    for i, outcome in enumerate(outcomes):
        state = search.tell(state, candidate(first, i), [outcome])
    search.metrics(state)
    search.champions(state)
    search.summary(state)


def _asked(
    search: CheckedSearch, state: State, key: Any, ts: Sequence[int]
) -> Candidates:
    answers: list = []
    for _ in range(_MOST_REQUESTS):
        got = search.ask(state, key, ts, tuple(answers))
        if isinstance(got, Candidates):
            return got
        size = search.context.basis.genome_size
        shape = (len(getattr(got, "genomes", ())), len(search.context.tasks))
        match got:
            case AcceptedRequest():
                answers.append(AcceptedAnswer({}, {}))
            case GradientRequest():
                slopes = np.full((len(got.genomes), size), 1e-3, np.float32)
                answers.append(GradientAnswer(np.ones(shape), slopes))
            case _:
                answers.append(ScoreAnswer(np.ones(shape)))
    raise RunError(
        f"search: {search.name}: ask made {_MOST_REQUESTS} requests for one batch "
        f"and proposed nothing; return Candidates once there are answers; {MEND_CODE}."
    )


def _outline(state: State) -> str:
    return str(
        jax.tree.map(
            lambda leaf: f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}", state.memory
        )
    )
