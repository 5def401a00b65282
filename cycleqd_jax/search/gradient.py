"""Gradient ascent without archives: one genome, moved by Adam on right answers.

It starts from the sum of the experts, times a factor, and follows the gradient, by the
coefficients, of the mean loss over the tasks with right answers. Candidates are
snapshots on the way. They are scored like any others, and the best mean on `optimise`
wins. Quality-diversity with gradients has to beat it with the same tokens.

Source: Adam, Kingma and Ba (arXiv 1412.6980); fitting the coefficients of task vectors
by gradient as in AdaMerging (arXiv 2310.02575), here on right answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.struct
import jax
import numpy as np
import optax
from pydantic import Field
from qdax.custom_types import RNGKey

from cycleqd_jax.files import Section, Whole, parse_section
from cycleqd_jax.merging.genome import Genome, scaled_sum
from cycleqd_jax.qd.ascent import ascend, make_optimiser
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.search import by_mean
from cycleqd_jax.search.base import (
    Candidates,
    Champions,
    Context,
    Lineage,
    Outcome,
    Search,
    State,
    add_candidates,
)
from cycleqd_jax.search.mutation_requests import Learnable, problems_to_learn
from cycleqd_jax.search.requests import (
    AcceptedRequest,
    Answer,
    GradientRequest,
    Request,
)


class GradientSettings(Section):
    """`search_settings` of gradient ascent.

    Attributes:
      factor: of the sum of task vectors that it starts from.
      rate: learning rate of Adam, in units of singular values.
      steps: of Adam per candidate.
      problems: problems per task and step; all of them if there are fewer.
      answers: the right answers: "known" ones of `train` problems, or replies to
        `optimise` problems that were "accepted" from the experts and from earlier
        candidates.
    """

    factor: float = Field(1.0, ge=-10, le=10)
    rate: float = Field(0.03, gt=0, le=10)
    steps: int = Field(4, ge=1, le=1000)
    problems: Whole = 4
    answers: Literal["known", "accepted"] = "known"


@flax.struct.dataclass
class Point:
    """A point of the trajectory; the memory of the search is the newest.

    Attributes:
      coefficients: float32 `[G]`.
      optimiser: the state of Adam.
    """

    coefficients: np.ndarray
    optimiser: optax.OptState


class GradientSearch(Search):
    """Gradient ascent; its memory is a `Point`.

    Raises:
      BadInputError: `search_settings` are not those of `GradientSettings`.
    """

    def __init__(self, context: Context):
        super().__init__(context)
        self._settings = parse_section(
            "search_settings", context.options, GradientSettings
        )
        self._optimiser = make_optimiser("adam", self._settings.rate)

    @classmethod
    def uses_train(cls, qd: QDSettings, options: Mapping[str, Any]) -> str | None:
        """With known answers."""
        return None if cls.uses_accepted(qd, options) else "search: gradient"

    @classmethod
    def uses_accepted(cls, qd: QDSettings, options: Mapping[str, Any]) -> bool:
        """With accepted replies."""
        return options.get("answers") == "accepted"

    @classmethod
    def uses_gradients(cls, qd: QDSettings, options: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def init(
        self,
        experts: Sequence[Genome],
        scores: np.ndarray,
        smooth: np.ndarray | None = None,
    ) -> State:
        """Starts from the sum of the experts, which are the first individuals."""
        start = np.asarray(self._start.coefficients)
        first = Point(start, jax.device_get(self._optimiser.init(start)))
        return State(by_mean.expert_bank(experts, scores, smooth), 1, first)

    @property
    def _start(self) -> Genome:
        return scaled_sum(self.context.basis, self._settings.factor)

    def _genome(self, point: Point) -> Genome:
        scales = np.asarray(self._start.scales)  # these have no gradient
        return Genome(point.coefficients, scales)

    def ask(
        self,
        state: State,
        key: RNGKey,
        ts: Sequence[int],
        answers: Sequence[Answer] = (),
    ) -> Candidates | Request:
        """Goes on from the newest point: candidate t is `steps` steps after t - 1."""
        first, steps = state.next_generation, self._settings.steps
        units = np.asarray(self.context.basis.singular_values)
        point, points = state.memory, {}
        accepted = self._settings.answers == "accepted"
        known, answers = problems_to_learn(self.context, answers, accepted=accepted)
        if known is None:
            return AcceptedRequest()
        if not known.problems:  # nobody has solved anything
            points = dict.fromkeys(ts, point)
        for i, answer in enumerate(answers):
            coefficients, optimiser = ascend(
                point.coefficients,
                point.optimiser,
                answer.gradients[0] * units,
                units=units,
                optimiser=self._optimiser,
            )
            point = Point(coefficients, jax.device_get(optimiser))
            points[first + i // steps] = point
        asked, lacking = len(answers), (ts[-1] - first + 1) * steps - len(answers)
        if known.problems and lacking:
            keys = jax.random.fold_in(key, first + asked // steps), asked % steps
            return self._request(point, jax.random.fold_in(*keys), known)
        return Candidates(
            tuple(ts),
            tuple(self._genome(points[t]) for t in ts),
            (Lineage(),) * len(ts),
            tuple(points[t] for t in ts),
        )

    def _request(self, point: Point, key: RNGKey, known: Learnable) -> GradientRequest:
        """The gradient of the mean loss on fresh problems, for one step."""
        problems = known.draw(key, self._settings.problems)
        names = self.context.tasks
        share = [name in known.problems for name in names]
        weights = np.asarray([share], np.float32) / max(sum(share), 1)
        accepted = self._settings.answers == "accepted"
        return GradientRequest((self._genome(point),), weights, (problems,), accepted)

    def tell(
        self, state: State, candidates: Candidates, outcomes: Sequence[Outcome]
    ) -> State:
        """Records the candidates and moves on to the last one's point."""
        bank = by_mean.prune(add_candidates(state.bank, candidates, outcomes))
        return State(bank, candidates.ts[-1] + 1, candidates.notes[-1])

    def champions(self, state: State) -> Champions:
        """One group: all individuals by their mean score."""
        return by_mean.champions(state.bank)

    def metrics(self, state: State) -> dict[str, float | str]:
        """The best scores; see `by_mean.metrics`."""
        return by_mean.metrics(state.bank, self.context.tasks)
