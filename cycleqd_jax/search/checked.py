"""A user's own search, whose mistakes end in one sentence that says what to mend.

`CheckedSearch` stands for it in a run and checks what it returns. `search/rehearsal.py`
plays some batches with it before a run begins.
"""

import json
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cycleqd_jax.errors import MEND_CODE, BadInputError, RunError, own_code, show
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.qd.aggregation import Contender
from cycleqd_jax.search.base import (
    Candidates,
    Champions,
    Context,
    Lineage,
    Search,
    State,
    Summary,
)
from cycleqd_jax.search.requests import Request


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
        """Takes the search and its name in the config.

        Raises:
          BadInputError: the search does not know its context.
        """
        if not isinstance(getattr(search, "context", None), Context):
            raise BadInputError(
                f"search: {name}: its __init__ must call super().__init__(context); "
                "mend it."
            )
        super().__init__(search.context)
        self._search, self.name = search, name

    def anew(self) -> "CheckedSearch":
        """Another instance of the search, as a resumed run makes one."""
        with own_code(f"search: {self.name}", type(self._search), MEND_CODE, RunError):
            search = type(self._search)(self.context)
        return CheckedSearch(search, self.name)

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
        for lineage in got.lineage:
            self._check_lineage(lineage, state.bank.next_id)
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
        """Checks groups, genomes of all that are in them, and that the best is best."""
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
            for one in group:
                if one.task is not None and one.task not in range(self._num_tasks):
                    self._refuse(
                        f"champions must have Contenders whose task is None or one of "
                        f"the {self._num_tasks}, from 0, but one has {show(one.task)}"
                    )
            ids += [one.individual for one in group]
        for one in ids:
            if one not in state.bank.genomes:
                self._refuse(
                    f"champions names the individual {show(one)}, whose genome is not "
                    "in the bank; leave it there when you prune"
                )
        means = np.mean(state.bank.scores, axis=1)
        whole = np.flatnonzero(state.bank.complete)
        better = [i for i in whole if means[i] > means[found.best] + 1e-9]
        if better:
            self._refuse(
                f"champions must name as best the individual with the highest mean "
                f"score, but names {found.best} ({means[found.best]:.4g}) and not "
                f"{better[0]} ({means[better[0]]:.4g}); experts count too"
            )
        return found

    def metrics(self, state) -> dict[str, float | str]:
        """Checks that metrics are numbers and texts."""
        found = self._call("metrics", dict, state)
        for name, value in found.items():
            if not isinstance(value, str | numbers.Real):
                self._refuse(
                    f"metrics must return numbers and texts, but {name} is "
                    f"{_named(value)}"
                )
        return found

    def summary(self, state) -> Summary:
        """Checks that JSON can hold its facts."""
        found = self._call("summary", Summary, state)
        try:
            json.dumps(found.facts)
        except (TypeError, ValueError) as err:
            self._refuse(
                f"summary must have facts that JSON can hold, but {err}; make numbers "
                "and lists of arrays by .tolist()"
            )
        return found

    @property
    def _num_tasks(self) -> int:
        return len(self.context.tasks)

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
                f"{_named(found)}"
            )
        return found

    def _refuse(self, what: str) -> None:
        raise RunError(f"search: {self.name}: {what}; {MEND_CODE}.")

    def _check_lineage(self, lineage: object, known: int) -> None:
        if not isinstance(lineage, Lineage):
            self._refuse(
                f"ask must return a Lineage each, but one is {_named(lineage)}"
            )
        parents, weights, active = lineage
        right = isinstance(parents, Sequence) and isinstance(weights, Sequence)
        right = right and len(parents) in (0, 2) and len(weights) == len(parents)
        right = right and all(one in range(known) for one in parents)
        right = right and all(isinstance(one, numbers.Real) for one in weights)
        if not right or not (active is None or active in range(self._num_tasks)):
            self._refuse(
                f"ask must return a Lineage each of no parent or of two, ids below "
                f"{known}, with as many weights, and with None or a task below "
                f"{self._num_tasks} as active, but one is {lineage!r}"
            )

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
            kind = getattr(leaf, "dtype", None)
            if kind is not None and jax.dtypes.issubdtype(kind, jax.dtypes.prng_key):
                self._refuse(
                    f"{method} must return a memory without random keys, which "
                    "checkpoints do not hold; ask gets the key of the run, or keep "
                    "jax.random.key_data(key)"
                )
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


def _named(value: object) -> str:
    return "None" if value is None else show(value)


def _outline(state: State) -> str:
    return str(
        jax.tree.map(
            lambda leaf: f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}", state.memory
        )
    )
