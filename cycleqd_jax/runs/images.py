"""The parts of a run of segmentation models: images, and their evaluator."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.images import ImagesEvaluator
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.mode import ModeChoice, choose_mode
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.families import make_segmentation_program
from cycleqd_jax.models.loading import LoadedModel, load_any_model
from cycleqd_jax.models.locate import is_hub_name, locate
from cycleqd_jax.models.segmentation import SegmentationConfig, SegmentationModel
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.basis import BasisJob, obtain
from cycleqd_jax.runs.conditioning import check_gram_memory
from cycleqd_jax.runs.device_memory import BASIS, WEIGHTS, tree_bytes
from cycleqd_jax.runs.fingerprints import (
    check_same_inputs,
    code_hashes,
    compared_settings,
)
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.memory import (
    IMAGES_CALL,
    Machine,
    RunMemory,
    host_memory,
    this_machine,
)
from cycleqd_jax.runs.plan import find_inputs, reached_rate
from cycleqd_jax.runs.search import make_search
from cycleqd_jax.runs.state_memory import state_memory
from cycleqd_jax.runs.tasks import check_splits, make_tasks
from cycleqd_jax.search.base import Search
from cycleqd_jax.search.registry import search_class
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.segmentation.task import ImageTask


@dataclasses.dataclass(frozen=True)
class PreparedImages:
    """The parts that a run of segmentation models works with; see `parts.Prepared`.

    Attributes:
      model: the base model on the host.
      program: the model as pure functions.
      weights: its weights on the device.
      noise: where Gaussian noise of genomes comes from, if they have any.
    """

    model: LoadedModel
    program: SegmentationModel
    weights: Weights
    tasks: tuple[ImageTask, ...]
    basis: Basis
    search: Search
    memory: RunMemory
    noise: NoiseSource | None
    fingerprints: Mapping[str, Any]
    gram_tokens: int = 0
    out_of_domain: tuple[ImageTask, ...] = ()

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, which are also those of the archives."""
        return tuple(task.name for task in self.tasks)

    @property
    def mode(self) -> ModeChoice:
        """The mode in which individuals are evaluated, and the reason."""
        return self.memory.mode


class ImageRun:
    """A run of segmentation models; see `parts.Kind`."""

    def __init__(self, config: RunConfig):
        """Raises `BadInputError` if a setting is one of language models only."""
        _check_settings(config)
        self._config = config

    def check(self) -> None:
        """Nothing is needed on this machine."""

    def prepare(
        self,
        folder: RunFolder,
        observer: Observer,
        tasks: Sequence[ImageTask] | None = None,
    ) -> PreparedImages:
        """Loads and checks all inputs; see `parts.Kind.prepare`."""
        config, machine = self._config, this_machine()
        observer.phase("loading the base model")
        if tasks is None:
            tasks = make_tasks(config.tasks, config.problems, config.task_settings)
        check_splits(config, tasks)
        names = tuple(task.name for task in tasks)
        for source in (config.base_model, *config.expert_paths):
            if is_hub_name(source):
                locate(source)  # downloads it
        inputs = find_inputs(config)
        shapes = inputs.basis(config)
        make_search(config, shapes, names, tasks)  # refuses wrong settings
        self.plan_memory(inputs.model, shapes, machine).check(machine)
        check_gram_memory(config, inputs.model, machine)
        observer.phase("reading the images")
        for task in tasks:
            for split in (Split.OPTIMISE, Split.VALIDATE, Split.TEST):
                for problem in task.problems(split):
                    task.example(problem)
        model = load_any_model(config.base_model, dtype=config.dtype)
        observer.phase("loading the experts")
        job = BasisJob.open(config, model, tasks)
        fingerprints = {
            "settings": compared_settings(config, 0, tasks),
            "base model": model.fingerprint,
            "tasks": {task.name: task.fingerprint for task in tasks},
            "code": code_hashes(config, tasks),
        }
        check_same_inputs(folder.path, fingerprints, lambda: job.fingerprints)
        observer.phase("computing the basis of the task vectors")
        program = make_segmentation_program(model.config, config.dtype)
        file = folder.path / "basis.safetensors"
        basis = obtain(job, program, shapes, observer, file=file)
        memory = self.plan_memory(model.config, basis, machine)
        evaluation = {"evaluation": {"images.mode": memory.mode.mode}}
        check_same_inputs(folder.path, evaluation)
        return PreparedImages(
            model=model,
            program=program,
            weights=put_on_device(model.weights, None),
            tasks=tuple(tasks),
            basis=basis,
            search=make_search(config, basis, names, tasks),
            memory=memory,
            noise=config.noise,
            fingerprints=fingerprints | job.fingerprints | evaluation,
        )

    @contextlib.contextmanager
    def evaluator(
        self, prepared: PreparedImages, observer: Observer
    ) -> Iterator[ImagesEvaluator]:
        """The evaluator; its programs compile with their first call."""
        config = self._config
        experts = config.name_experts(prepared.task_names)
        with ImagesEvaluator(
            prepared.program,
            prepared.weights,
            prepared.basis,
            tasks=prepared.tasks,
            mode=prepared.mode.mode,
            individuals_per_call=config.qd.children_per_batch,
            settings=config.images,
            noise=prepared.noise,
            whole=WholeModels(prepared.model, experts),
        ) as evaluator:
            yield evaluator

    def plan_memory(
        self, model: SegmentationConfig, basis: Basis, machine: Machine
    ) -> RunMemory:
        """The memory of a run, from shapes; errors as of `choose_mode`."""
        config, dtype = self._config, jnp.dtype(self._config.dtype)
        shapes = model.weight_shapes()
        weights = {n: jax.ShapeDtypeStruct(s, dtype) for n, s in shapes.items()}
        mode = choose_mode(
            config.images.mode,
            weights,
            basis,
            noise=config.noise is not None,
            setting="images.mode",
        )
        rows, changed = config.images.per_call, (*basis.u, *basis.deltas)
        own = tree_bytes({name: weights[name] for name in changed})
        if mode.mode == "factored":
            individuals = config.qd.children_per_batch
            rows *= individuals
            own = 4 * individuals * basis.genome_size
        state = state_memory(config, basis)
        return RunMemory(
            parameters=sum(math.prod(shape) for shape in shapes.values()),
            basis=basis,
            mode=mode,
            state=state,
            device={
                WEIGHTS: tree_bytes(weights),
                BASIS: tree_bytes(basis),
                IMAGES_CALL: rows * model.image_numbers * dtype.itemsize,
                f"{mode.mode} mode": own,
            },
            host=host_memory(config.base_model, weights, state),
            devices=1,
        )

    def estimate_episode(self, prepared: PreparedImages, observer: Observer) -> float:
        """Seconds that one individual takes for one image, roughly."""
        return prepared.model.config.image_flops / reached_rate(self._config.dtype)


def _check_settings(config: RunConfig) -> None:
    """Refuses what only runs of language models have.

    Raises:
      BadInputError: names the setting.
    """
    kind, options = search_class(config.search), config.search_settings
    mesh = config.engine.mesh
    wrong = {
        "evaluator: ray": config.evaluator != "local",
        "distributed: on": config.distributed == "on",
        "engine.mesh": mesh.data * mesh.tensor > 1,
        "racing.rungs": config.racing.rungs > 0,
        "fitness.smooth": config.fitness.smooth,
        "out_of_domain": bool(config.out_of_domain),
        "population": config.population > 0,
        "retention": config.retention.descriptor or config.retention.passages > 0,
        "basis.conditioning: regmean": config.basis.conditioning == "regmean",
        f"search {config.search} with answers or gradients": bool(
            kind.uses_train(config.qd, options)
            or kind.uses_gradients(config.qd, options)
            or kind.uses_accepted(config.qd, options)
        ),
    }
    for name, is_set in wrong.items():
        if is_set:
            raise BadInputError(
                f"{name}: is for language models, but the tasks "
                f"{', '.join(config.tasks)} are data sets of images; leave it out."
            )
