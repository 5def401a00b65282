"""The basis of a run's experts: found by its fingerprint, or made."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cycleqd_jax.config import RunConfig
from cycleqd_jax.merging.basis import (
    compute_basis,
    conditioned_task_vectors,
)
from cycleqd_jax.merging.basis_cache import (
    BasisKey,
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
      inputs: that condition the basis, if any do.
    """

    config: RunConfig
    model: LoadedModel
    experts: Mapping[str, Expert]
    inputs: TrainInputs | None

    @classmethod
    def open(
        cls, config: RunConfig, model: LoadedModel, tasks: Sequence[Task]
    ) -> "BasisJob":
        """Opens the experts of a config; full ones are not read.

        Raises:
          BadInputError: one is missing, damaged or does not fit.
        """
        paths = config.name_experts([task.name for task in tasks])
        opened = {name: load_expert(path, model) for name, path in paths.items()}
        experts = {n: e if e.is_known else e.digesting() for n, e in opened.items()}
        inputs = train_inputs(config, tasks, model.tokenizer)
        return cls(config, model, experts, inputs)

    @functools.cached_property
    def prints(self) -> dict[str, str]:
        """Expert -> fingerprint.

        Weights that were not read yet are read for it; after a basis was made there are
        none.
        """
        return {name: expert.fingerprint for name, expert in self.experts.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the basis; reads as `prints` does."""
        return self._hash(self.prints)

    @property
    def fingerprints(self) -> dict[str, Any]:
        """The fingerprints that runs compare (`runs.fingerprints`); see `prints`."""
        return {"experts": self.prints, "basis": self.fingerprint}

    @functools.cached_property
    def key(self) -> BasisKey:
        """The name of the basis in the user's cache."""
        experts = self.experts
        work = self._hash({name: e.identity for name, e in experts.items()})
        return BasisKey(
            find=lambda: self.fingerprint,
            is_known=all(expert.is_known for expert in experts.values()),
            find_sample=lambda: self._hash({n: e.sample for n, e in experts.items()}),
            work=work,
            is_settled=all(expert.is_settled for expert in experts.values()),
        )

    def _hash(self, experts: Mapping[str, str]) -> str:
        return basis_fingerprint(
            self.model.fingerprint,
            experts,
            self.config.basis,
            basis_form(self.config),
            inputs=self.inputs and self.inputs.fingerprint,
            dtype=self.config.dtype,
        )

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
        job.key,
        lambda: job.compute(program),
        file=file,
        keep=job.config.basis.keep,
        place=place,
        factorise=large,
    )
