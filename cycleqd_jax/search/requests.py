"""Requests of a search before it proposes, and the answers.

A search that makes requests says so in `Search.uses_train`, `Search.uses_accepted` and
`Search.uses_gradients`.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cycleqd_jax.merging.genome import Genome

Problems = Mapping[str, tuple[str, ...]]  # task name -> ids of its problems


@dataclasses.dataclass(frozen=True)
class AcceptedRequest:
    """Asks which `optimise` problems the individuals told so far have solved.

    A search that makes it says so in `Search.uses_accepted`.
    """


@dataclasses.dataclass(frozen=True)
class GradientRequest:
    """Asks for the gradient of the loss on right answers.

    They are the reference answers of `train` problems, or accepted replies to
    `optimise` problems.

    The loss of genome p is `sum_k task_weights[p, k] * loss_k`, with `loss_k` the mean
    over its problems of task k of the negative log-probability per token.

    Attributes:
      genomes: P genomes, `[G]` and `[K]` float32 on the host.
      task_weights: float32 `[P, K]`.
      problems: P entries: task name -> ids of `train` problems with a reference answer,
        or of problems in an `AcceptedAnswer`.
      accepted: whether they are the latter.
    """

    genomes: tuple[Genome, ...]
    task_weights: np.ndarray
    problems: tuple[Problems, ...]
    accepted: bool = False


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """Asks for log-probabilities of reference answers of `train` problems.

    Attributes:
      genomes: P genomes, `[G]` and `[K]` float32 on the host.
      problems: P entries: task name -> ids of `train` problems with a reference answer.
    """

    genomes: tuple[Genome, ...]
    problems: tuple[Problems, ...]


class AcceptedAnswer(NamedTuple):
    """The answer to an `AcceptedRequest`.

    Attributes:
      problems: task name -> ids of `optimise` problems with an accepted reply; a task
        without any has no entry.
      weights: task name -> per id how much there is to learn, above 0.
    """

    problems: Problems
    weights: Mapping[str, tuple[float, ...]]


class GradientAnswer(NamedTuple):
    """The answer to a `GradientRequest`.

    Attributes:
      losses: nats per token, float64 `[P, K]`; NaN for a task without problems.
      gradients: of the weighted loss by coefficients, float32 `[P, G]`.
    """

    losses: np.ndarray
    gradients: np.ndarray


class ScoreAnswer(NamedTuple):
    """The answer to a `ScoreRequest`.

    Attributes:
      losses: nats per token, float64 `[P, K]`; NaN for a task without problems.
    """

    losses: np.ndarray


Request = AcceptedRequest | GradientRequest | ScoreRequest
Answer = AcceptedAnswer | GradientAnswer | ScoreAnswer
