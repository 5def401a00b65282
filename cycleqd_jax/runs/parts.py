"""The parts a run needs of its kind of models, and the facts it writes first."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig, to_yaml
from cycleqd_jax.evaluation.base import Evaluator
from cycleqd_jax.merging.basis_store import store_basis
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.mode import ModeChoice
from cycleqd_jax.models.base import WeightsConfig
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs import sums
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.memory import Machine, RunMemory
from cycleqd_jax.search.base import Search
from cycleqd_jax.tasks.base import Task

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy",
              "qdax")  # fmt: skip


class Prepared(Protocol):
    """All inputs of a run, loaded and checked.

    Attributes:
      tasks: in the order of the archives.
      task_names: their names.
      basis: of the experts.
      search: the method.
      memory: what the run holds in memory.
      mode: in which individuals are evaluated, and why.
      fingerprints: all inputs and settings that decide the result.
      gram_tokens: tokens whose inputs conditioned the basis.
      out_of_domain: tasks that the search does not see.
    """

    tasks: Sequence[Task]
    task_names: tuple[str, ...]
    basis: Basis
    search: Search
    memory: RunMemory
    mode: ModeChoice
    fingerprints: Mapping[str, Any]
    gram_tokens: int
    out_of_domain: Sequence[Task]


class Kind(Protocol):
    """The differences between runs of language models and of segmentation models."""

    def check(self) -> None:
        """Refuses what cannot run here, before anything is loaded.

        Raises:
          BadInputError: says what and why.
        """
        ...

    def prepare(
        self,
        folder: RunFolder,
        observer: Observer,
        tasks: Sequence[Task] | None = None,
    ) -> Prepared:
        """Loads and checks all inputs; nothing is written.

        Args:
          folder: of the run.
          observer: hears what is being done.
          tasks: if they are made already.

        Raises:
          BadInputError: an input is missing, damaged or does not fit, or is another
            than that of the run in the folder.
        """
        ...

    def evaluator(
        self, prepared: Prepared, observer: Observer
    ) -> contextlib.AbstractContextManager[Evaluator]:
        """The evaluator, ready to be used."""
        ...

    def plan_memory(
        self, model: WeightsConfig, basis: Basis, machine: Machine
    ) -> RunMemory:
        """The memory of a run, from shapes."""
        ...

    def estimate_episode(self, prepared: Prepared, observer: Observer) -> float:
        """Seconds that one individual takes for one problem here, roughly."""
        ...


def write_run_facts(folder: RunFolder, config: RunConfig, prepared: Prepared) -> None:
    """Writes `config.yaml`, the basis if it is not there, and `run.json`."""
    sums.write(folder.path / "config.yaml", to_yaml(config).encode())
    store_basis(
        folder.path / "basis.safetensors",
        prepared.basis,
        fingerprint=prepared.fingerprints["basis"],
    )
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    files.write_sealed(
        folder.path / "run.json",
        {
            "tasks": list(prepared.task_names),
            "versions": versions | {"python": platform.python_version()},
            "machine": {
                "platform": platform.platform(),
                "cores": os.cpu_count(),
                "devices": [device.device_kind for device in jax.devices()],
            },
            "mode": prepared.mode._asdict(),
            "fingerprints": prepared.fingerprints,
        },
    )
