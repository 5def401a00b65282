"""Weights of individuals that are no genomes: trained experts and adapters."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import jax

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.individuals import Adapter, TrainedExpert
from cycleqd_jax.merging.task_vectors import ExpertWeights
from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.experts import Expert
from cycleqd_jax.models.loading import LoadedModel, load_expert
from cycleqd_jax.models.sharding import put_on_device


class WeightsSource(Protocol):
    """Gives the weights of individuals that are not genomes."""

    def weights(self, individual: TrainedExpert | Adapter) -> Weights:
        """The individual's weights, on the device or mesh."""
        ...


@dataclasses.dataclass(frozen=True)
class WholeModels:
    """Loads the weights of one individual at a time.

    Attributes:
      base: the base model on the host.
      experts: its name -> folder or hub name of its expert.
      mesh: where weights are placed; None for one device.
    """

    base: LoadedModel
    experts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mesh: jax.sharding.Mesh | None = None

    def expert(self, individual: TrainedExpert | Adapter) -> Expert:
        """The individual as it is stored, on the host.

        Raises:
          BadInputError: the expert is unknown, or its files are missing, damaged or do
            not fit the base model.
        """
        if isinstance(individual, Adapter):
            return load_expert(individual.path, self.base)
        if individual.name not in self.experts:
            known = ", ".join(self.experts) or "none"
            raise BadInputError(
                f"expert {individual.name!r} is unknown; there are {known}."
            )
        return load_expert(self.experts[individual.name], self.base)

    def weights(self, individual: TrainedExpert | Adapter) -> Weights:
        """The individual's weights on the device or mesh; errors as for `expert`."""
        own = ExpertWeights(self.base.weights, self.expert(individual))
        return put_on_device(own, self.mesh)
