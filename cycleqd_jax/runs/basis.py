"""The basis of a run's experts: found by its fingerprint, or made."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cycleqd_jax.config import RunConfig
from cycleqd_jax.merging.basis import (
    compute_basis,
    conditioned_task_vectors,
)
from cycleqd_jax.merging.basis_cache import (
    has_room,
    obtain_basis,
)
from cycleqd_jax.merging.basis_store import (
    Placement,
    basis_fingerprint,
    on_first_device,
)
from cycleqd_jax.merging.core_basis import core_basis
from cycleqd_jax.merging.factorise import factorise
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.task_vectors import iterate_task_vectors
from cycleqd_jax.models.base import CausalLM
from cycleqd_jax.models.experts import Expert
from cycleqd_jax.models.loading import LoadedModel, load_expert
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.conditioning import TrainInputs, train_inputs
from cycleqd_jax.runs.device_memory import tree_bytes
from cycleqd_jax.search.registry import search_class
from cycleqd_jax.tasks.base import Task

LARGE = 1 << 30  # bytes; a basis from here on is made with its work on the disk


@dataclasses.dataclass(frozen=True)
class BasisJob:
    """Everything that a basis is made of.

    Attributes:
      config: the settings.
      model: the base model.
      experts: by name, in the order of genomes.
      prints: expert -> fingerprint.
      inputs: that condition the basis, if any do.
      fingerprint: of all these.
    """

    config: RunConfig
    model: LoadedModel
    experts: Mapping[str, Expert]
    prints: Mapping[str, str]
    inputs: TrainInputs | None
    fingerprint: str

    @classmethod
    def open(
        cls, config: RunConfig, model: LoadedModel, tasks: Sequence[Task]
    ) -> "BasisJob":
        """Opens the experts of a config.

        Their weights are read for the fingerprint only where it is not known yet.

        Raises:
          BadInputError: one is missing, damaged or does not fit.
        """
        paths = config.name_experts([task.name for task in tasks])
        experts = {name: load_expert(path, model) for name, path in paths.items()}
        prints = {name: expert.fingerprint for name, expert in experts.items()}
        inputs = train_inputs(config, tasks, model.tokenizer)
        fingerprint = basis_fingerprint(
            model.fingerprint,
            prints,
            config.basis,
            basis_form(config),
            inputs=inputs and inputs.fingerprint,
            dtype=config.dtype,
        )
        return cls(config, model, experts, prints, inputs, fingerprint)

    def compute(self, program: CausalLM) -> Basis:
        """The basis, made in memory; errors as for `compute_basis`."""
        return self._formed(
            compute_basis(
                self.model.weights,
                list(self.experts.values()),
                self.config.basis,
                expert_names=tuple(self.experts),
                layers=self._layers(program),
                dtype=self.config.dtype,
            )
        )

    def factorise(self, program: CausalLM, observer: Observer, folder: Path) -> Basis:
        """The basis, made with the work in a folder; errors as for `factorise`."""
        names, experts = tuple(self.experts), list(self.experts.values())
        weights, settings = self.model.weights, self.config.basis
        total = sum(1 for _ in iterate_task_vectors(weights, experts, names))
        return self._formed(
            factorise(
                folder,
                conditioned_task_vectors(
                    weights, experts, settings, names, self._layers(program)
                ),
                names,
                settings,
                self.config.dtype,
                lambda done: observer.parameters(done, total),
            )
        )

    def _layers(self, program: CausalLM):
        return self.inputs and self.inputs.grams(program, self.model.weights)

    def _formed(self, basis: Basis) -> Basis:
        return core_basis(basis) if basis_form(self.config) == "core" else basis


def basis_form(config: RunConfig) -> str:
    """The form that the search needs: "diagonal" or "core"."""
    return search_class(config.search).basis_form(config.qd, config.search_settings)


def obtain(
    job: BasisJob,
    program: CausalLM,
    shapes: Basis,
    observer: Observer,
    *,
    file: Path | None = None,
    place: Placement = on_first_device,
) -> Basis:
    """The basis of a run: of its folder, else of the cache, else made.

    Args:
      job: what it is made of.
      program: the base model as functions, for conditioning.
      shapes: those of the largest basis that may come.
      observer: hears of progress.
      file: of the run folder, if there is one.
      place: puts the arrays of a stored basis on devices.

    Raises:
      BadInputError: as for `compute_basis`.
      RunError: the work on a large basis cannot be stored.
    """
    large: Callable[[Path], Basis] | None = None
    size = tree_bytes(shapes)
    if size >= LARGE and has_room(size):

        def large(folder: Path) -> Basis:
            return job.factorise(program, observer, folder)

    return obtain_basis(
        job.fingerprint,
        lambda: job.compute(program),
        file=file,
        keep=job.config.basis.keep,
        place=place,
        factorise=large,
    )
