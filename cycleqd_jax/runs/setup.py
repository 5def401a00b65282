"""From a config to everything a run needs in memory: model, tasks, experts, basis."""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig, to_yaml
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.settings import EngineSettings, MeshSettings
from cycleqd_jax.merging.basis import compute_basis
from cycleqd_jax.merging.basis_cache import (
    find_basis,
    keep_basis,
    link_basis,
)
from cycleqd_jax.merging.basis_store import (
    basis_fingerprint,
    load_basis,
    save_basis,
    stored_fingerprint,
)
from cycleqd_jax.merging.core_basis import AnyBasis, core_basis
from cycleqd_jax.merging.modes import ModeChoice, choose_mode
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.models import sharding
from cycleqd_jax.models.attention import choose_attention
from cycleqd_jax.models.llama.config import LlamaConfig
from cycleqd_jax.models.llama.program import LlamaProgram, Weights
from cycleqd_jax.models.loading import LoadedModel, load_expert, load_model
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.engine_size import cache_bytes, sized_engine
from cycleqd_jax.runs.fingerprints import (
    check_same_inputs,
    comparison_fingerprint,
    operator_fingerprints,
    search_fingerprint,
)
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.memory import check_run_memory, state_memory, this_machine
from cycleqd_jax.runs.memory_plan import MemoryPlan, check_memory_plan
from cycleqd_jax.sandbox.base import Sandbox, SandboxSettings
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.search.base import Context, Search
from cycleqd_jax.search.registry import search_class
from cycleqd_jax.tasks.base import ProblemsSettings, Split, Task, TaskSettings
from cycleqd_jax.tasks.registry import make_task

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy",
              "qdax")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a run works with.

    Attributes:
      model: the base model on the host, with its tokeniser.
      program: the model as pure functions.
      weights: its weights on the device.
      tasks: in the order of the archives.
      basis: of the experts.
      search: the method.
      mode: how individuals are evaluated, and why.
      noise: where Gaussian noise of genomes comes from, if they have any.
      fingerprints: hashes of all inputs and settings that decide the result.
      engine: its settings, with numbers where the config says "auto".
      mesh: where weights and cache lie, None on one device.
    """

    model: LoadedModel
    program: LlamaProgram
    weights: Weights
    tasks: tuple[Task, ...]
    basis: AnyBasis
    search: Search
    mode: ModeChoice
    noise: NoiseSource | None
    fingerprints: Mapping[str, Any]
    engine: EngineSettings
    mesh: jax.sharding.Mesh | None = None

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, which are also those of the archives."""
        return tuple(task.name for task in self.tasks)


def make_tasks(
    names: Sequence[str],
    problems: ProblemsSettings,
    own: Mapping[str, Mapping[str, Any]],
    *,
    download: bool = True,
) -> tuple[Task, ...]:
    """The tasks that a config names.

    Args:
      names: or import paths.
      problems: the section.
      own: `task_settings` of the config.
      download: whether data of benchmarks may be fetched.

    Raises:
      BadInputError: one is unknown, or two share a name.
      MissingDataError: the data of a benchmark are not on this machine.
    """
    tasks = tuple(
        make_task(
            name,
            TaskSettings(
                problems.seed,
                problems.sizes,
                problems.turns,
                own.get(name, {}),
                download,
            ),
        )
        for name in names
    )
    found = [task.name for task in tasks]
    if len(set(found)) < len(found):
        raise BadInputError(
            f"tasks: {', '.join(names)} have the names {', '.join(found)}, but each "
            "archive needs another; leave one out."
        )
    return tasks


def make_mesh(settings: MeshSettings) -> jax.sharding.Mesh | None:
    """The mesh of the settings, None for one device.

    Raises:
      BadInputError: there are fewer devices.
    """
    if settings.data * settings.tensor == 1:
        return None
    return sharding.make_mesh(settings.data, settings.tensor)


def make_program(
    config: LlamaConfig, dtype: str, engine: EngineSettings
) -> LlamaProgram:
    """The model as functions, with the attention that the engine's settings ask for.

    Raises:
      BadInputError: it cannot run here.
    """
    attention = choose_attention(
        engine.attention,
        head_dim=config.head_dim,
        dtype=jnp.dtype(dtype),
        devices=engine.mesh.data * engine.mesh.tensor,
    )
    return LlamaProgram(config, dtype, attention=attention)


def check_splits(config: RunConfig, tasks: Sequence[Task]) -> None:
    """Refuses tasks that lack the problems that the settings need.

    Every task needs problems of `optimise`, and of `validate` where champions are
    chosen on it. On `test` either all tasks have problems or none has.

    Raises:
      BadInputError: names the task and the split.
    """
    needed = {Split.OPTIMISE: "the search scores candidates on them"}
    if config.aggregation.candidates:
        needed[Split.VALIDATE] = (
            f"aggregation.candidates is {config.aggregation.candidates}, so champions "
            "are chosen on them"
        )
    if any(task.problems(Split.TEST) for task in tasks):
        needed[Split.TEST] = "the other tasks have some, and models are compared on all"
    for split, why in needed.items():
        for task in tasks:
            if not task.problems(split):
                raise BadInputError(
                    f"task {task.name}: has no problems of the split {split}, but "
                    f"{why}; give it some, or change the settings."
                )


def prepare(
    config: RunConfig, folder: RunFolder | None, observer: Observer
) -> Prepared:
    """Loads and checks all inputs of a run.

    Args:
      config: the settings.
      folder: of the run: its basis is used if it has one, and its inputs must be the
        same; None where there is none. Nothing is written.
      observer: hears what is being done.

    Raises:
      BadInputError: an input is missing, damaged or does not fit, or is another than
        that of the run in the folder.
    """
    observer.phase("loading the base model")
    search_kind = search_class(config.search)
    tasks = make_tasks(config.tasks, config.problems, config.task_settings)
    check_splits(config, tasks)
    mesh = make_mesh(config.engine.mesh)
    memory, machine = check_run_memory(config), this_machine()
    model = load_model(config.base_model, dtype=config.dtype)
    program = make_program(model.config, config.dtype, config.engine)
    engine = sized_engine(
        config.engine,
        tasks=tasks,
        splits=(Split.OPTIMISE, Split.VALIDATE, Split.TEST),
        tokenizer=model.tokenizer,
        token_bytes=cache_bytes(model.config, config.dtype),
        room=machine.host_bytes // 2 if memory is None else memory.room(machine),
    )
    if mesh is not None:
        kv_heads = model.config.num_key_value_heads
        sharding.check_sizes(mesh, slots=engine.slots, kv_heads=kv_heads)
    observer.phase("loading the experts")
    experts = [load_expert(path, model) for path in config.expert_paths]
    names = [task.name for task in tasks]
    basis_print = basis_fingerprint(
        model.weights,
        experts,
        names,
        rank=config.basis.rank,
        residual=config.basis.residual,
        conditioning=config.basis.conditioning,
        form=_form(config),
    )
    fingerprints = {
        "base model": model.fingerprint,
        "experts": {
            name: expert.fingerprint
            for name, expert in zip(names, experts, strict=True)
        },
        "basis": basis_print,
        "tasks": {task.name: task.fingerprint for task in tasks},
        "search settings": search_fingerprint(config),
        "comparison settings": comparison_fingerprint(config),
        "operators": operator_fingerprints(config),
    }
    if folder is not None:
        check_same_inputs(folder, fingerprints)
    observer.phase("computing the basis of the task vectors")
    basis = _basis(config, folder, model, experts, names, basis_print)
    plan_memory(config, basis)
    weights = sharding.put_on_device(model.weights, mesh)
    noise = config.noise
    context = Context(
        config.qd, config.search_settings, basis, tuple(names), config.tasks
    )
    search = search_kind(context)
    mode = choose_mode(config.engine.mode, weights, basis, noise=noise is not None)
    if mode.mode == "materialised" and memory and memory.mode.mode == "factored":
        mode = memory.mode  # by the memory that there is
    return Prepared(
        model=model,
        program=program,
        weights=weights,
        tasks=tasks,
        basis=basis,
        search=search,
        mode=mode,
        noise=noise,
        fingerprints=fingerprints,
        engine=engine,
        mesh=mesh,
    )


def plan_memory(config: RunConfig, basis: AnyBasis) -> MemoryPlan:
    """Memory of archives and bank.

    Raises:
      BadInputError: it cannot fit in half of this machine's memory.
    """
    plan = state_memory(config, basis.genome_size)
    check_memory_plan(plan, this_machine().host_bytes // 2)
    return plan


def write_run_facts(folder: RunFolder, config: RunConfig, prepared: Prepared) -> None:
    """Writes `config.yaml`, the basis if it is not there, and `run.json`."""
    files.write_text(folder.path / "config.yaml", to_yaml(config))
    basis = folder.path / "basis.safetensors"
    fingerprint = prepared.fingerprints["basis"]
    if not basis.is_file() or stored_fingerprint(basis) != fingerprint:
        if not (config.basis.keep and link_basis(fingerprint, basis)):
            settings = _basis_settings(config)
            save_basis(
                basis, prepared.basis, fingerprint=fingerprint, settings=settings
            )
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    files.write_json(
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


def open_sandbox(sandbox: SandboxSettings) -> Sandbox:
    """The sandbox that the settings ask for.

    Raises:
      BadInputError: it is missing or not permitted here.
    """
    return make_sandbox(sandbox.kind, sandbox.workers, sandbox.memoise)


@contextlib.contextmanager
def open_evaluator(
    config: RunConfig, prepared: Prepared, sandbox: Sandbox
) -> Iterator[LocalEvaluator]:
    """The evaluator of a run; closes the sandbox at its end."""
    engine = Engine(
        prepared.program,
        prepared.model.tokenizer,
        prepared.engine,
        mesh=prepared.mesh,
    )
    experts = dict(zip(prepared.task_names, config.expert_paths, strict=True))
    loader = IndividualLoader(
        engine=engine,
        weights=prepared.weights,
        basis=prepared.basis,
        mode=prepared.mode.mode,
        individuals_per_pass=config.qd.children_per_batch,
        noise=prepared.noise,
        whole=WholeModels(prepared.model, experts, prepared.mesh),
    )
    with LocalEvaluator(loader, tasks=prepared.tasks, sandbox=sandbox) as evaluator:
        yield evaluator


def _form(config: RunConfig) -> str:
    return search_class(config.search).basis_form(config.qd)


def _basis_settings(config: RunConfig) -> dict[str, Any]:
    return config.basis.model_dump(mode="json", exclude={"keep"})


def _basis(config, folder, model, experts, names, fingerprint) -> AnyBasis:
    """From the run folder, else from the user's cache, else computed."""
    path = folder.path / "basis.safetensors" if folder is not None else None
    if path is not None and path.is_file():
        stored = load_basis(path)
        if stored.fingerprint == fingerprint:
            return stored.basis
    found = find_basis(fingerprint) if config.basis.keep else None
    if found is not None:
        return found
    basis = compute_basis(
        model.weights,
        experts,
        rank=config.basis.rank,
        residual=config.basis.residual,
        expert_names=names,
    )
    basis = core_basis(basis) if _form(config) == "core" else basis
    if config.basis.keep:
        keep_basis(basis, fingerprint, _basis_settings(config))
    return basis
