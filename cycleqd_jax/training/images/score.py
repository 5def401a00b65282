"""Scores of a base model and of experts on data sets of images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from cycleqd_jax.evaluation.base import mean_scores
from cycleqd_jax.evaluation.image_settings import ImagesSettings
from cycleqd_jax.evaluation.images import ImagesEvaluator
from cycleqd_jax.merging.individuals import TrainedExpert
from cycleqd_jax.merging.task_vectors import ExpertWeights
from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.experts import Expert
from cycleqd_jax.progress import Observer
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.segmentation.task import ImageTask
from cycleqd_jax.training.experts import Validation
from cycleqd_jax.training.images.setup import SegmentationBase

BASE = "base"


def score_models(
    base: SegmentationBase,
    experts: Mapping[str, Expert],
    tasks: Sequence[ImageTask],
    split: Split,
    observer: Observer | None = None,
) -> Validation:
    """Mean scores of the base model, named "base", and of experts.

    Args:
      base: the base model.
      experts: by name; none has the name of the base.
      tasks: at least one.
      split: whose images.
      observer: is told of images.

    Raises:
      BadInputError: an image cannot be read.
    """
    models = {name: TrainedExpert(name) for name in (BASE, *experts)}
    evaluator = ImagesEvaluator(
        base.program,
        {},
        None,
        tasks=tasks,
        mode="materialised",
        individuals_per_call=1,
        settings=ImagesSettings(),
        whole=_Whole(base, experts),
    )
    with evaluator:
        found = evaluator.evaluate(
            models, split, progress=None if observer is None else observer.episodes
        )
    return Validation(mean_scores(found.episodes), found.cost)


class _Whole(NamedTuple):
    """Weights on the host, by the name of a `TrainedExpert`; a `WeightsSource`."""

    base: SegmentationBase
    experts: Mapping[str, Expert]

    def weights(self, individual: TrainedExpert) -> Weights:
        """Puts the weights of one model on the device."""
        weights = self.base.weights
        if individual.name != BASE:
            weights = ExpertWeights(weights, self.experts[individual.name])
        return {name: jnp.asarray(w, jnp.float32) for name, w in weights.items()}
