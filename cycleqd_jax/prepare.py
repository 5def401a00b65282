"""From a config to everything a run needs in memory: model, tasks, experts, basis."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cycleqd_jax.config import RunConfig, to_yaml
from cycleqd_jax.config_sections import EngineConfig, ProblemsConfig, SandboxConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluate import Evaluator, ModeChoice, check_prompts, choose_mode
from cycleqd_jax.inference.engine import Engine, EngineShape
from cycleqd_jax.io import files
from cycleqd_jax.io.run_folder import RunFolder
from cycleqd_jax.loop import CycleSettings
from cycleqd_jax.merging.basis import Basis, compute_basis
from cycleqd_jax.merging.basis_file import basis_fingerprint, load_basis, save_basis
from cycleqd_jax.models.llama import LlamaProgram, Weights
from cycleqd_jax.models.loading import LoadedModel, load_expert, load_model
from cycleqd_jax.observe import Observer
from cycleqd_jax.qd.memory_plan import MemoryPlan, check_memory_plan, memory_plan
from cycleqd_jax.qd.propose_settings import ProposeSettings
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.sandbox.make import make_sandbox
from cycleqd_jax.tasks.base import Split, Task, TaskSettings
from cycleqd_jax.tasks.registry import make_task

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy",
              "qdax")  # fmt: skip
# What a resumed run may change: how long, how fast and where, never what is searched.
_FREE_TO_CHANGE = ("num_generations",)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a run works with.

    Attributes:
      model: the base model on the host, with its tokeniser.
      program: the model as pure functions.
      weights: its weights on the device.
      tasks: in the order of the archives.
      basis: of the experts.
      mode: how individuals are evaluated, and why.
      fingerprints: hashes of all inputs and settings that decide the result.
    """

    model: LoadedModel
    program: LlamaProgram
    weights: Weights
    tasks: tuple[Task, ...]
    basis: Basis
    mode: ModeChoice
    fingerprints: Mapping[str, Any]

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, which are also those of the archives."""
        return tuple(task.name for task in self.tasks)


def make_tasks(names: Sequence[str], problems: ProblemsConfig) -> tuple[Task, ...]:
    """The tasks that a config names.

    Raises:
      BadInputError: one is unknown, or two share a name.
    """
    sizes = {Split(split): count for split, count in problems.sizes.items()}
    settings = TaskSettings(seed=problems.seed, sizes=sizes, turns=problems.turns)
    tasks = tuple(make_task(name, settings) for name in names)
    found = [task.name for task in tasks]
    if len(set(found)) < len(found):
        raise BadInputError(
            f"tasks: {', '.join(names)} have the names {', '.join(found)}, but each "
            "archive needs another; leave one out."
        )
    return tasks


def put_on_device(weights: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Flat weights as JAX arrays."""
    return {name: jnp.asarray(array) for name, array in weights.items()}


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
    tasks = make_tasks(config.tasks, config.problems)
    model = load_model(config.base_model, dtype=config.dtype)
    program = LlamaProgram(model.config, config.dtype)
    check_prompts(
        tasks,
        (Split.OPTIMISE, Split.VALIDATE, Split.TEST),
        model.tokenizer,
        length=config.engine.length,
        multiple_of=config.engine.prefill_chunk,
    )
    observer.phase("loading the experts")
    experts = [load_expert(path, model) for path in config.expert_paths]
    names = [task.name for task in tasks]
    basis_print = basis_fingerprint(
        model.weights,
        experts,
        names,
        rank=config.basis.rank,
        conditioning=config.basis.conditioning,
    )
    fingerprints = {
        "base model": model.fingerprint,
        "experts": {
            name: expert.fingerprint
            for name, expert in zip(names, experts, strict=True)
        },
        "basis": basis_print,
        "tasks": {task.name: task.fingerprint for task in tasks},
        "search settings": _search_fingerprint(config),
    }
    if folder is not None:
        check_same_inputs(folder, fingerprints)
    observer.phase("computing the basis of the task vectors")
    basis = _basis(config, folder, model, experts, names, basis_print)
    plan_memory(config, basis)
    weights = put_on_device(model.weights)
    mode = choose_mode(config.engine.mode, weights, basis)
    return Prepared(model, program, weights, tasks, basis, mode, fingerprints)


def plan_memory(config: RunConfig, basis: Basis) -> MemoryPlan:
    """Memory of archives and bank.

    Raises:
      BadInputError: it cannot fit in half of this machine's memory.
    """
    plan = memory_plan(
        num_tasks=len(config.tasks),
        bins=config.qd.bins,
        genome_size=basis.genome_size,
        num_generations=config.qd.num_generations,
        children_per_batch=config.qd.children_per_batch,
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    check_memory_plan(plan, memory // 2)
    return plan


def check_same_inputs(folder: RunFolder, fingerprints: Mapping[str, Any]) -> None:
    """Refuses to go on with a run that was begun with other inputs.

    Raises:
      BadInputError: names the first input that differs.
    """
    path = folder.path / "run.json"
    if not path.is_file():
        return
    for name, old in files.read_json(path)["fingerprints"].items():
        new = fingerprints[name]
        if old != new:
            which = name
            if isinstance(old, dict):
                odd = [key for key in {**old, **new} if old.get(key) != new.get(key)]
                which = f"{name} ({', '.join(odd)})"
            raise BadInputError(
                f"run_dir: the run in {folder.path} was begun with other {which}; "
                "resume it with the same, or start anew with run_dir=FOLDER."
            )


def write_run_facts(folder: RunFolder, config: RunConfig, prepared: Prepared) -> None:
    """Writes `config.yaml`, the basis if it is not there, and `run.json`."""
    files.write_text(folder.path / "config.yaml", to_yaml(config))
    basis = folder.path / "basis.safetensors"
    fingerprint = prepared.fingerprints["basis"]
    if not basis.is_file() or load_basis(basis).fingerprint != fingerprint:
        settings = config.basis.model_dump(mode="json")
        save_basis(basis, prepared.basis, fingerprint=fingerprint, settings=settings)
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    files.write_json(
        folder.path / "run.json",
        {
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


def engine_shape(engine: EngineConfig) -> EngineShape:
    """The engine's static sizes from its settings."""
    return EngineShape(
        slots=engine.slots,
        length=engine.length,
        prefill_rows=engine.prefill_rows,
        prefill_chunk=engine.prefill_chunk,
        decode_steps=engine.decode_steps,
    )


def open_sandbox(sandbox: SandboxConfig) -> Sandbox:
    """The sandbox that the settings ask for.

    Raises:
      BadInputError: it is missing or not permitted here.
    """
    return make_sandbox(sandbox.kind, sandbox.workers, sandbox.memoise)


@contextlib.contextmanager
def open_evaluator(
    config: RunConfig, prepared: Prepared, sandbox: Sandbox
) -> Iterator[Evaluator]:
    """The evaluator of a run; closes the sandbox at its end."""
    engine = Engine(
        prepared.program, prepared.model.tokenizer, engine_shape(config.engine)
    )
    with Evaluator(
        engine=engine,
        weights=prepared.weights,
        basis=prepared.basis,
        tasks=prepared.tasks,
        sandbox=sandbox,
        mode=prepared.mode.mode,
        individuals_per_pass=config.qd.children_per_batch,
    ) as evaluator:
        yield evaluator


def cycle_settings(config: RunConfig) -> CycleSettings:
    """The search settings in the form the loop takes."""
    qd = config.qd
    return CycleSettings(
        seed=config.seed,
        num_generations=qd.num_generations,
        children_per_batch=qd.children_per_batch,
        propose=ProposeSettings(
            flip_interval=qd.flip_interval,
            selection=qd.selection,
            alpha_low=qd.alpha_low,
            alpha_high=qd.alpha_high,
            crossover_mean=qd.crossover_mean,
            crossover_std=qd.crossover_std,
            mutation=qd.mutation,
            w_max=qd.w_max,
        ),
    )


def _search_fingerprint(config: RunConfig) -> str:
    settings = config.qd.model_dump(mode="json", exclude=set(_FREE_TO_CHANGE))
    text = json.dumps({"seed": config.seed, "dtype": config.dtype, "qd": settings},
                      sort_keys=True)  # fmt: skip
    return hashlib.sha256(text.encode()).hexdigest()


def _basis(config, folder, model, experts, names, fingerprint) -> Basis:
    path = folder.path / "basis.safetensors" if folder is not None else None
    if path is not None and path.is_file():
        stored = load_basis(path)
        if stored.fingerprint == fingerprint:
            return stored.basis
    return compute_basis(
        model.weights, experts, rank=config.basis.rank, expert_names=names
    )
