"""Plays some batches of a user's own search before a run, to find its mistakes.

Scores are made up. A run that is resumed has another instance of the search and no more
than its state, so that the rehearsal has another one, too.
"""

import copy
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cycleqd_jax.errors import MEND_CODE, BadInputError, RunError
from cycleqd_jax.merging.genome import expert_genome
from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.search.base import Candidates, Outcome, Search, State, candidate
from cycleqd_jax.search.checked import CheckedSearch
from cycleqd_jax.search.requests import (
    AcceptedAnswer,
    AcceptedRequest,
    GradientAnswer,
    GradientRequest,
    ScoreAnswer,
)

_MOST_REQUESTS = 100  # of one batch
_BATCHES = 3  # that are played at least
_CHILDREN = 24  # likewise, so that a population fills and is bred from
_CLOSE = 1e-5  # relative, of genomes that are the same


def rehearse(
    search: Search, batch: int, last: int, *, smooth: bool, retention: bool
) -> None:
    """Plays some batches of a user's own search with made-up scores.

    Each batch is asked for twice, and once more of another instance: the same state and
    key must give the same candidates.

    Args:
      search: from `runs.search.make_search`; those of this package are let through.
      batch: children per batch.
      last: children of the run; no more are played.
      smooth: whether the run has smooth scores.
      retention: whether it has retention.

    Raises:
      BadInputError: the search fails, in the words of the run.
    """
    if not isinstance(search, CheckedSearch):
        return
    try:
        _Rehearsal(search, smooth, retention).play(batch, last)
    except RunError as err:
        sentence = str(err).replace(MEND_CODE, "mend it")
        raise BadInputError(f"{sentence} Nothing was begun.") from err


class _Rehearsal:
    """A search, another instance of it, and made-up scores."""

    def __init__(self, search: CheckedSearch, smooth: bool, retention: bool):
        self._search, self._other = search, search.anew()
        self._smooth, self._retention = smooth, retention
        self._key = jax.random.key(0)

    def play(self, batch: int, last: int) -> None:
        """Plays batches of so many children, from the first on."""
        state, names = self._begun(), None
        count = min(max(_CHILDREN, _BATCHES * batch), last)
        for first in range(1, count + 1, batch):
            ts = range(first, min(first + batch, last + 1))
            state = self._batch(state, tuple(ts))
            found = sorted(self._search.metrics(state))
            if names is not None and found != names:
                self._refuse(
                    f"metrics must return the same names at all times, but returned "
                    f"{names} and then {found}"
                )
            names = found
            self._search.champions(state)
        self._search.summary(state)

    def _begun(self) -> State:
        basis, num_tasks = self._search.context.basis, len(self._search.context.tasks)
        scores = np.asarray(
            [self._scores(k, num_tasks) for k in range(basis.num_experts)]
        )
        known: dict[str, np.ndarray] = {}
        if self._smooth:
            known["smooth"] = -scores
        if self._retention:
            known["retention"] = scores[:, 0]
        experts = [expert_genome(basis, k) for k in range(basis.num_experts)]
        return self._search.init(experts, scores, **known)

    def _batch(self, state: State, ts: tuple[int, ...]) -> State:
        before = copy.deepcopy(jax.device_get(state.memory))
        found = self._asked(self._search, state, ts)
        if not _same(found, self._asked(self._search, state, ts)):
            self._refuse(
                "ask returned other candidates when it was asked again with the same "
                "state and key; take all randomness from fold_in(key, t), so that a "
                "run can be resumed"
            )
        if not _same(found, self._asked(self._other, state, ts)):
            self._refuse(
                f"ask for {list(ts)} returned other candidates in another instance of "
                "the class, which a resumed run has, with the same state and key; keep "
                "what the search learns in State.memory and nothing of it on self"
            )
        after = state
        for i in range(len(ts)):
            outcome = self._outcome(ts[i])
            after = self._search.tell(after, candidate(found, i), [outcome])
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(state.memory), strict=True)
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
            self._refuse(
                "tell changed arrays of the state that it was given; return new ones, "
                "as a batch that fails is asked for again from the old state"
            )
        return after

    def _outcome(self, t: int) -> Outcome:
        tasks = self._search.context.tasks
        scores = self._scores(1000 + t, len(tasks))
        return Outcome(
            tuple(scores),
            problems={task: () for task in tasks},
            smooth=tuple(-score for score in scores) if self._smooth else None,
            retention=0.5 if self._retention else None,
        )

    def _scores(self, number: int, num_tasks: int) -> list[float]:
        """Scores in quarters, so that some are equal; the same for the same number."""
        drawn = np.random.default_rng(number).integers(0, 5, num_tasks)
        return (drawn / 4).tolist()

    def _asked(
        self, search: CheckedSearch, state: State, ts: Sequence[int]
    ) -> Candidates:
        answers: list = []
        for _ in range(_MOST_REQUESTS):
            got = search.ask(state, self._key, ts, tuple(answers))
            if isinstance(got, Candidates):
                return got
            answers.append(self._answer(got))
        raise self._refusal(
            f"ask made {_MOST_REQUESTS} requests for one batch and proposed nothing; "
            "return Candidates once there are answers"
        )

    def _answer(self, request: Any) -> Any:
        context = self._search.context
        shape = (len(getattr(request, "genomes", ())), len(context.tasks))
        match request:
            case AcceptedRequest():
                return AcceptedAnswer({}, {})
            case GradientRequest():
                slopes = (shape[0], context.basis.genome_size)
                return GradientAnswer(np.ones(shape), np.full(slopes, 1e-3, np.float32))
            case _:
                return ScoreAnswer(np.ones(shape))

    def _refuse(self, what: str) -> None:
        raise self._refusal(what)

    def _refusal(self, what: str) -> RunError:
        return RunError(f"search: {self._search.name}: {what}; {MEND_CODE}.")


def _same(one: Candidates, other: Candidates) -> bool:
    for a, b in zip(one.genomes, other.genomes, strict=True):
        if isinstance(a, Recipe) or isinstance(b, Recipe):
            if a != b:
                return False
        elif not jax.tree.all(
            jax.tree.map(lambda x, y: np.allclose(x, y, rtol=_CLOSE, atol=1e-7), a, b)
        ):
            return False
    return repr(one.lineage) == repr(other.lineage)  # NaN is not equal to itself
