"""The requests of gradient mutation and of evolution strategies.

A child moves in steps, and every step needs one answer of the evaluator. A child that
learns from accepted replies first asks which problems have such a reply. All random
draws of a step come from the child's key, so a child is the same alone and in a batch.
A task without right answers has no slope; a child that is bred in its archive follows
the mix of the other tasks.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from qdax.custom_types import RNGKey

from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.ascent import (
    ascend,
    draw_perturbations,
    draw_problems,
    draw_task_weights,
    estimated_slopes,
    make_optimiser,
    mixed_slopes,
)
from cycleqd_jax.qd.schedule import generation_keys
from cycleqd_jax.search.base import Context
from cycleqd_jax.search.requests import (
    AcceptedRequest,
    Answer,
    GradientRequest,
    Problems,
    Request,
    ScoreRequest,
)


class _StepKeys(NamedTuple):
    """Attributes: keys for the problems and for the perturbations of a step."""

    problems: RNGKey
    noise: RNGKey


def mutated_or_request(
    children: Sequence[Genome],
    active: Sequence[int],
    run_key: RNGKey,
    ts: Sequence[int],
    answers: Sequence[Answer],
    context: Context,
) -> tuple[Genome, ...] | Request:
    """The mutated children, or what is needed for their next step.

    Args:
      children: P genomes after crossover, on the host; the basis is diagonal.
      active: the active task of each.
      run_key: one typed key; each child uses the one folded from it and its t.
      ts: their generations.
      answers: to the requests of the steps so far.
      context: of the search; its settings `ascent_*` and `es_*` are used.
    """
    known, answers = problems_to_learn(
        context, answers, accepted=context.qd.ascends_accepted
    )
    if known is None:
        return AcceptedRequest()
    if not known.problems:  # nobody has solved anything
        return tuple(children)
    mutation = _GradientMutation if context.qd.mutation == "gradient" else _ES
    ascents = [
        mutation(child, task, generation_keys(run_key, t).mutation, context, known)
        for child, task, t in zip(children, active, ts, strict=True)
    ]
    for answer in answers:
        rows = 0
        for ascent in ascents:
            ascent.step(answer, slice(rows, rows + ascent.rows))
            rows += ascent.rows
    if len(answers) == context.qd.ascent_steps:
        return tuple(ascent.genome for ascent in ascents)
    return mutation.request(ascents)


class Learnable(NamedTuple):
    """Problems with right answers, which steps learn from.

    Attributes:
      problems: task name -> ids.
      weights: task name -> a weight per id, by which they are drawn; None for equal
        ones.
    """

    problems: Problems
    weights: Mapping[str, Sequence[float]] | None = None

    def draw(self, key: RNGKey, count: int) -> dict[str, tuple[str, ...]]:
        """Draws problems for a step, see `draw_problems`."""
        return draw_problems(key, self.problems, count, self.weights)


def problems_to_learn(
    context: Context, answers: Sequence[Answer], *, accepted: bool
) -> tuple[Learnable | None, Sequence[Answer]]:
    """The problems that a search may learn from, and the answers of its steps.

    Args:
      context: of the search.
      answers: to its requests so far.
      accepted: whether it learns from accepted replies; else from reference answers.

    Returns:
      None where an `AcceptedRequest` has to be made first.
    """
    if not accepted:
        return Learnable(context.train), answers
    if not answers:
        return None, answers
    return Learnable(*answers[0]), answers[1:]


class _Ascent:
    """A child that is being mutated in steps.

    Attributes:
      genome: of the child after the steps so far.
      rows: number of genomes that it has in each request.
    """

    rows: int

    def __init__(
        self,
        child: Genome,
        active: int,
        key: RNGKey,
        context: Context,
        known: Learnable,
    ):
        self.genome = child
        self._context, self._key, self._steps = context, key, 0
        self._units = np.asarray(context.basis.singular_values)
        qd = context.qd
        self._known = known
        names = context.tasks
        self._tasks = [k for k, name in enumerate(names) if name in known.problems]
        self._weights = draw_task_weights(
            jax.random.fold_in(key, 0),
            len(context.tasks),
            active,
            sigma=qd.ascent_sigma,
        )[self._tasks]
        self._optimiser = make_optimiser(qd.ascent_optimiser, qd.ascent_rate)
        self._state = self._optimiser.init(self._units)

    def step(self, answer: Answer, rows: slice) -> None:
        """Takes one step, by the child's rows of an answer."""
        coefficients, self._state = ascend(
            np.asarray(self.genome.coefficients),
            self._state,
            mixed_slopes(self._slopes(answer, rows), self._weights, self._units),
            units=self._units,
            optimiser=self._optimiser,
        )
        self.genome = self.genome.replace(coefficients=coefficients)
        self._steps += 1

    def _slopes(self, answer: Answer, rows: slice) -> np.ndarray:
        """Gradients of the losses of the tasks with right answers.

        Returns:
          `[n, G]` in units of singular values, in the order of tasks.
        """
        raise NotImplementedError

    def _step_keys(self) -> _StepKeys:
        key = jax.random.fold_in(self._key, self._steps + 1)
        return _StepKeys(*jax.random.split(key))

    def _problems(self) -> dict[str, tuple[str, ...]]:
        """The problems of the next step."""
        count = self._context.qd.ascent_problems
        return self._known.draw(self._step_keys().problems, count)


class _GradientMutation(_Ascent):
    """Asks for the gradient of every task's loss: one row per task."""

    @property
    def rows(self) -> int:
        return len(self._tasks)

    @staticmethod
    def request(ascents: Sequence["_GradientMutation"]) -> GradientRequest:
        """The request for the next step of all children."""
        problems: list[Problems] = []
        weights = []
        for ascent in ascents:
            drawn, names = ascent._problems(), ascent._context.tasks
            problems += [{names[k]: drawn[names[k]]} for k in ascent._tasks]
            weights.append(np.eye(len(names), dtype=np.float32)[ascent._tasks])
        return GradientRequest(
            tuple(a.genome for a in ascents for _ in range(a.rows)),
            np.concatenate(weights),
            tuple(problems),
            accepted=ascents[0]._context.qd.ascends_accepted,
        )

    def _slopes(self, answer: Answer, rows: slice) -> np.ndarray:
        return answer.gradients[rows] * self._units


class _ES(_Ascent):
    """Asks for the losses of antithetic perturbations: two rows per pair."""

    @property
    def rows(self) -> int:
        return 2 * self._context.qd.es_pairs

    @staticmethod
    def request(ascents: Sequence["_ES"]) -> ScoreRequest:
        """The request for the next step of all children."""
        genomes, problems = [], []
        for ascent in ascents:
            genomes += ascent._perturbed()
            problems += [ascent._problems()] * ascent.rows
        return ScoreRequest(tuple(genomes), tuple(problems))

    def _perturbations(self) -> np.ndarray:
        return draw_perturbations(
            self._step_keys().noise, self._context.qd.es_pairs, self._units.size
        )

    def _perturbed(self) -> list[Genome]:
        own, found = self.genome, []
        for one in self._context.qd.es_std * self._perturbations():
            for sign in (1, -1):
                moved = own.coefficients + sign * self._units * one
                found.append(own.replace(coefficients=np.asarray(moved, np.float32)))
        return found

    def _slopes(self, answer: Answer, rows: slice) -> np.ndarray:
        return estimated_slopes(
            answer.losses[rows][:, self._tasks],
            self._perturbations(),
            std=self._context.qd.es_std,
        )
