"""The parts of a run of language models: sandbox, engine, conversations."""

import contextlib
from collections.abc import Iterator, Sequence

from cycleqd_jax.config import RunConfig
from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.evaluation.ray import RayEvaluator
from cycleqd_jax.inference.relay import ALONE, Alone, Leader
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.followers import lead
from cycleqd_jax.runs.memory import Machine, RunMemory, plan_memory
from cycleqd_jax.runs.plan import estimate_episode
from cycleqd_jax.runs.remote import of_driver, remote_evaluator
from cycleqd_jax.runs.setup import Prepared, open_evaluator, prepare
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Task


class TextRun:
    """A run of language models; see `parts.Kind`."""

    def __init__(self, config: RunConfig, relay: Alone | Leader | None = None):
        """Checks nothing yet.

        Args:
          config: the settings.
          relay: to the other processes that share the mesh, if there are any.
        """
        self._config, self._relay = config, ALONE if relay is None else relay
        self._sandbox: Sandbox | None = None  # hosts of a cluster have their own

    def check(self) -> None:
        """Makes the sandbox of this machine; raises `BadInputError` if it cannot."""
        if self._config.evaluator == "local":
            self._sandbox = make_sandbox(self._config.sandbox)

    def prepare(
        self,
        folder: RunFolder,
        observer: Observer,
        tasks: Sequence[Task] | None = None,
    ) -> Prepared:
        """Loads and checks all inputs; see `setup.prepare`."""
        driver = of_driver(self._config)
        return prepare(driver, folder, observer, tasks, relay=self._relay)

    @contextlib.contextmanager
    def evaluator(
        self, prepared: Prepared, observer: Observer
    ) -> Iterator[LocalEvaluator | RayEvaluator]:
        """The evaluator that the config names, with its programs compiled."""
        with self._open(prepared, observer) as evaluator:
            observer.phase("compiling the engine")
            evaluator.compile(observer.note)
            yield evaluator

    def plan_memory(
        self, model: ModelConfig, basis: Basis, machine: Machine
    ) -> RunMemory:
        """The memory of a run; see `memory.plan_memory`."""
        return plan_memory(of_driver(self._config), model, basis, machine)

    def estimate_episode(self, prepared: Prepared, observer: Observer) -> float:
        """Seconds per episode; the evaluator can be opened."""
        with self._open(prepared, observer):
            return estimate_episode(
                prepared.memory.parameters,
                self._config.dtype,
                prepared.tasks,
                prepared.model.tokenizer,
            )

    def _open(
        self, prepared: Prepared, observer: Observer
    ) -> contextlib.AbstractContextManager[LocalEvaluator | RayEvaluator]:
        if self._sandbox is None:
            return remote_evaluator(self._config, prepared, observer.note)
        basis = None if prepared.relay is ALONE else lead(self._config, prepared)
        return open_evaluator(self._config, prepared, self._sandbox, basis)
