"""Weights of individuals that are no genomes: experts, adapters and recipes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.genome import Genome, genome_hash
from cycleqd_jax.merging.individuals import Adapter, Individual, Recipe, TrainedExpert
from cycleqd_jax.merging.recipes import MergedWeights
from cycleqd_jax.merging.task_vectors import ExpertWeights
from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.experts import Expert
from cycleqd_jax.models.loading import LoadedModel, load_expert
from cycleqd_jax.models.sharding import put_on_device


class WeightsSource(Protocol):
    """Gives the weights of individuals that are not genomes."""

    def weights(self, individual: TrainedExpert | Adapter | Recipe) -> Weights:
        """The individual's weights, on the device or mesh."""
        ...


@dataclasses.dataclass(frozen=True)
class WholeModels:
    """Loads the weights of one individual at a time.

    Attributes:
      base: the base model on the host.
      experts: its name -> folder or hub name of its expert; recipes merge all of them,
        in this order.
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

    def weights(self, individual: TrainedExpert | Adapter | Recipe) -> Weights:
        """The individual's weights on the device or mesh; errors as for `expert`."""
        return put_on_device(self.host_weights(individual), self.mesh)

    def host_weights(
        self, individual: TrainedExpert | Adapter | Recipe
    ) -> Mapping[str, Any]:
        """The individual's weights, each made when it is asked for; see `expert`."""
        if isinstance(individual, Recipe):
            return MergedWeights(self.base.weights, self._all(), individual)
        return ExpertWeights(self.base.weights, self.expert(individual))

    def fingerprint(self, individual: Individual | None) -> str:
        """Sha256 (hex) of an individual and its base; see `expert`.

        Args:
          individual: None is the base itself. Of a genome the run's basis and noise are
            not hashed.
        """
        match individual:
            case Genome():
                own = genome_hash(individual)
            case Recipe():
                experts = [expert.fingerprint for expert in self._all().values()]
                own = [dataclasses.asdict(individual), experts]
            case None:
                own = None
            case _:
                own = self.expert(individual).fingerprint
        return files.hash_arrays({}, [self.base.fingerprint, own])

    def _all(self) -> dict[str, Expert]:
        return {
            name: load_expert(path, self.base) for name, path in self.experts.items()
        }
