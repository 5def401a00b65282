"""The smooth score: how likely an individual finds the right answers.

    smooth_k = mean over the problems of task k of log p(reference answer) / its tokens

in nats per token, at most 0 and the higher the better. A verdict on few problems is
coarse, so that many individuals tie; the smooth score tells them apart, and costs one
forward pass per problem without decoding. Verdicts stay what is reported.
"""

import math
from collections.abc import Iterable, Sequence

from cycleqd_jax.evaluation.base import ReferenceScore, mean_losses
from cycleqd_jax.files import Section


class FitnessSettings(Section):
    """The fitness of individuals in the search.

    Attributes:
      smooth: whether the log-probability of right answers is computed beside the
        verdict, and decides between individuals of equal verdict.
    """

    smooth: bool = False


def smooth_scores(
    scores: Iterable[ReferenceScore], tasks: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """Name of the individual -> its K smooth scores, in nats per token.

    A task whose problems have no reference answers gets NaN.
    """
    return {
        name: tuple(-losses[task] if task in losses else math.nan for task in tasks)
        for name, losses in mean_losses(scores).items()
    }
