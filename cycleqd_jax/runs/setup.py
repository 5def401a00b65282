"""From a config to everything a run needs in memory: model, tasks, experts, basis."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import MissingDataError
from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.evaluation.retention import passages
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.inference.population import basis_placement, place_basis
from cycleqd_jax.inference.relay import ALONE, Alone, Leader
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.merging.basis_cache import find_basis
from cycleqd_jax.merging.basis_store import on_host
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.mode import ModeChoice
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.models import sharding
from cycleqd_jax.models.base import CausalLM, Weights
from cycleqd_jax.models.loading import LoadedModel, load_model
from cycleqd_jax.models.locate import is_hub_name, locate
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.basis import BasisJob, obtain
from cycleqd_jax.runs.conditioning import check_gram_memory
from cycleqd_jax.runs.device_memory import cache_bytes
from cycleqd_jax.runs.engine_sizes import (
    check_length,
    check_prompts,
    check_references,
    choose_slots,
)
from cycleqd_jax.runs.engines import make_loader, make_mesh, make_program
from cycleqd_jax.runs.fingerprints import (
    check_same_inputs,
    code_hashes,
    compared_settings,
)
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.memory import RunMemory, plan_memory, this_machine
from cycleqd_jax.runs.plan import find_inputs
from cycleqd_jax.runs.retention import check_texts
from cycleqd_jax.runs.search import make_search
from cycleqd_jax.runs.tasks import check_splits, find_out_of_domain, make_tasks
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.search.base import Search
from cycleqd_jax.search.registry import search_class
from cycleqd_jax.tasks.base import Split, Task


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The parts that a run works with.

    Attributes:
      model: the base model on the host, with its tokeniser.
      program: the model as pure functions.
      weights: its weights on the device.
      tasks: in the order of the archives.
      basis: of the experts.
      search: the method.
      memory: what the run holds in memory.
      noise: where Gaussian noise of genomes comes from, if they have any.
      fingerprints: all inputs and settings that decide the result.
      engine: its settings, with numbers where the config says "auto".
      mesh: where weights and cache lie, None on one device.
      gram_tokens: tokens whose inputs conditioned the basis; 0 without "regmean".
      relay: to the other processes that share the mesh. With any, the basis is on the
        host, for their mesh holds it once more.
      out_of_domain: tasks that the search does not see.
    """

    model: LoadedModel
    program: CausalLM
    weights: Weights
    tasks: tuple[Task, ...]
    basis: Basis
    search: Search
    memory: RunMemory
    noise: NoiseSource | None
    fingerprints: Mapping[str, Any]
    engine: EngineSettings
    mesh: jax.sharding.Mesh | None = None
    gram_tokens: int = 0
    relay: Alone | Leader = ALONE
    out_of_domain: tuple[Task, ...] = ()

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, which are also those of the archives."""
        return tuple(task.name for task in self.tasks)

    @property
    def mode(self) -> ModeChoice:
        """The mode in which individuals are evaluated, and the reason."""
        return self.memory.mode


def prepare(
    config: RunConfig,
    folder: RunFolder | None,
    observer: Observer,
    tasks: tuple[Task, ...] | None = None,
    *,
    basis_file: pathlib.Path | None = None,
    relay: Alone | Leader = ALONE,
) -> Prepared:
    """Loads and checks all inputs of a run.

    Args:
      config: the settings.
      folder: of the run: its basis is used if it has one, and its inputs must be the
        same; None where there is none. Nothing is written.
      observer: hears what is being done.
      tasks: those of the config if they are made already.
      basis_file: the basis of a run that is on another machine; it is not computed.
      relay: to the other processes that share the mesh, if there are any.

    Raises:
      BadInputError: an input is missing, damaged or does not fit, or is another than
        that of the run in the folder.
    """
    observer.phase("loading the base model")
    search_class(config.search)
    if tasks is None:
        tasks = make_tasks(config.tasks, config.problems, config.task_settings)
    check_splits(config, tasks)
    out_of_domain, missing = find_out_of_domain(config, tasks)
    if missing:
        raise MissingDataError(missing[0])
    names = tuple(task.name for task in tasks)
    expert_paths = config.name_experts(names)
    mesh, machine = make_mesh(config.engine.mesh), this_machine()
    for source in (config.base_model, *expert_paths.values()):
        if is_hub_name(source):
            locate(source)  # downloads it
    inputs = find_inputs(config)
    names, shapes = [task.name for task in tasks], inputs.basis(config)
    # Refuses wrong settings before any work.
    train = make_search(config, shapes, names, tasks).context.train
    memory = plan_memory(config, inputs.model, shapes, machine)
    memory.check(machine)
    check_gram_memory(config, inputs.model, machine)
    model = load_model(
        config.base_model,
        dtype=config.dtype,
        date=config.date,
        experts=tuple(expert_paths.values()),
        vocabulary=config.vocabulary,
    )
    if remark := model.tokenizer.date_remark:
        observer.note(remark)
    program = make_program(model.config, config.dtype, config.engine)
    splits = [Split.OPTIMISE, Split.VALIDATE, Split.TEST]
    if train:  # the engine scores their answers
        splits.append(Split.TRAIN)
    engine = check_prompts(
        (*tasks, *out_of_domain), splits, model.tokenizer, config.engine
    )
    grows = config.engine.length == "auto"  # for all that is scored, too
    if config.fitness.smooth:
        engine = check_references(
            tasks, Split.OPTIMISE, model.tokenizer, engine, may_grow=grows
        )
    texts = passages(config.retention)
    engine = check_texts(texts, model.tokenizer, engine, may_grow=grows)
    check_length(engine, model.config)
    token_bytes = cache_bytes(model.config, config.dtype)
    engine = choose_slots(engine, token_bytes, memory.room(machine))
    if mesh is not None:
        kv_heads = model.config.num_key_value_heads
        sharding.check_sizes(mesh, slots=engine.slots, kv_heads=kv_heads)
    observer.phase("loading the experts")
    job = BasisJob.open(config, model, tasks)
    fingerprints = {
        "settings": compared_settings(config, engine.length, tasks)
        | ({"retention text": files.hash_arrays({}, list(texts))} if texts else {}),
        "tokeniser": model.tokenizer.fingerprint,
        "base model": model.fingerprint,  # has the tokeniser in it too
        "tasks": {task.name: task.fingerprint for task in tasks},
        "code": code_hashes(config, tasks),
    }
    if folder is not None:
        check_same_inputs(folder.path, fingerprints, lambda: job.fingerprints)
    observer.phase("computing the basis of the task vectors")
    if basis_file is None:
        file = None if folder is None else folder.path / "basis.safetensors"
        place = basis_placement(mesh) if relay is ALONE else on_host
        basis = obtain(job, program, shapes, observer, file=file, place=place)
    else:
        basis = find_basis(job.fingerprint, basis_file)
    memory = plan_memory(config, model.config, basis, machine)
    if relay is ALONE:
        basis = place_basis(basis, mesh)
    evaluation = {"evaluation": {"engine.mode": memory.mode.mode}}
    if folder is not None:
        check_same_inputs(folder.path, evaluation)
    return Prepared(
        model=model,
        program=program,
        weights=sharding.put_on_device(model.weights, mesh),
        tasks=tasks,
        basis=basis,
        search=make_search(config, basis, names, tasks),
        memory=memory,
        noise=config.noise,
        fingerprints=fingerprints | job.fingerprints | evaluation,
        engine=engine,
        mesh=mesh,
        gram_tokens=job.inputs.tokens if job.inputs else 0,
        relay=relay,
        out_of_domain=out_of_domain,
    )


@contextlib.contextmanager
def open_evaluator(
    config: RunConfig,
    prepared: Prepared,
    sandbox: Sandbox,
    basis: Basis | None = None,
) -> Iterator[LocalEvaluator]:
    """The evaluator of a run; closes the sandbox at its end.

    Args:
      config: the settings.
      prepared: everything that it is made of.
      sandbox: for programs.
      basis: on the mesh, where that of `prepared` is not.
    """
    experts = config.name_experts(prepared.task_names)
    loader = make_loader(
        WholeModels(prepared.model, experts, prepared.mesh),
        prepared.engine,
        relay=prepared.relay,
        weights=prepared.weights,
        basis=prepared.basis if basis is None else basis,
        mode=prepared.mode.mode,
        individuals_per_pass=config.qd.children_per_batch,
        noise=config.noise,
    )
    with LocalEvaluator(
        loader,
        tasks=prepared.tasks,
        sandbox=sandbox,
        further=prepared.out_of_domain,
    ) as evaluator:
        yield evaluator
