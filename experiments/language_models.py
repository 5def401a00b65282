"""The models whose language is measured: individuals of a run, and folders."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator

import jax

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.language.settings import EXPERTS, LanguageConfig
from cycleqd_jax.evaluation.language.task import Speaker
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.population import (
    choose_mode,
    empty_population,
    with_individual,
)
from cycleqd_jax.inference.settings import EngineSettings
from cycleqd_jax.merging.basis_store import load_basis
from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import Genome, genome_hash
from cycleqd_jax.merging.materialise import materialise
from cycleqd_jax.merging.noise import NoiseSource
from cycleqd_jax.merging.task_vectors import ExpertWeights
from cycleqd_jax.models.base import CausalLM, Weights
from cycleqd_jax.models.loading import LoadedModel, load_expert, load_model
from cycleqd_jax.models.locate import locate
from cycleqd_jax.progress import Observer
from cycleqd_jax.qd.archives import state_fingerprint
from cycleqd_jax.runs.checkpoints import Checkpoints
from cycleqd_jax.runs.fingerprints import stored_fingerprints
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.memory import cache_bytes, size_text, this_machine
from cycleqd_jax.runs.names import BASE, individual_genome, known_individuals
from cycleqd_jax.runs.setup import make_mesh, make_program, put_on_device

_CACHE_SHARE = 0.3  # of the memory, for keys and values; the rest is weights and work
_MOST_SLOTS = {"cpu": 64}
_MOST_SLOTS_ELSEWHERE = 256
_LENGTH_STEP = 256  # engines of few lengths, as each length is compiled anew


@dataclasses.dataclass(frozen=True)
class Model:
    """One model that is measured.

    Attributes:
      name: in tables.
      fingerprint: of what it is made of.
      source: its genome, or a folder.
    """

    name: str
    fingerprint: str
    source: Genome | str


@dataclasses.dataclass(frozen=True)
class Family:
    """The base model and what individuals of a run are made of.

    Attributes:
      base: on the host.
      fingerprint: of it.
      dtype: of weights and computation.
      basis: of the genomes, None without a run.
      noise: of the genomes.
      mode: "factored" or "materialised", how genomes are evaluated.
      models: in the order of tables; the first is the base.
    """

    base: LoadedModel
    dtype: str
    basis: AnyBasis | None
    noise: NoiseSource | None
    mode: str
    models: tuple[Model, ...]


def open_family(config: LanguageConfig, observer: Observer) -> Family:
    """Finds and checks all models of a config; only the base is loaded.

    Raises:
      BadInputError: one is missing, damaged or unknown.
    """
    others = [
        Model(name, _stamp(locate(path)), path) for name, path in config.models.items()
    ]
    if config.run is None:
        observer.phase("loading the base model")
        dtype = config.dtype or "float32"
        base = load_model(config.base_model, dtype=dtype)
        first = Model(BASE, base.fingerprint, config.base_model)
        return Family(base, dtype, None, None, "materialised", (first, *others))
    run, own = _open_run(config, observer)
    return dataclasses.replace(run, models=(*own, *others))


def _open_run(
    config: LanguageConfig, observer: Observer
) -> tuple[Family, tuple[Model, ...]]:
    path = pathlib.Path(config.run)
    if not (path / "state.json").is_file():
        raise BadInputError(
            f"run: {path} holds no finished run (state.json is missing); finish it "
            "with experiments.agent_skills --resume."
        )
    with RunFolder(path, resume=True) as folder:
        run = load_config(path / "config.yaml", [], RunConfig)
        basis = load_basis(path / "basis.safetensors").basis
        with Checkpoints(folder.checkpoints) as checkpoints:
            state = checkpoints.restore()
        facts = files.read_sealed(path / "state.json")
        found = state and state_fingerprint(state.archives, state.bank)
        if found != facts["archives_fingerprint"]:
            raise BadInputError(
                f"run: the checkpoint of {path} is damaged or is not that of its "
                "state.json; make it again with experiments.agent_skills --resume."
            )
        wanted = stored_fingerprints(folder.path)["base model"]
    observer.phase("loading the base model")
    base = load_model(run.base_model, dtype=run.dtype)
    if base.fingerprint != wanted:
        raise BadInputError(
            f"base_model: {base.source} has other weights now (sha256 "
            f"{base.fingerprint[:12]}) than when the run in {path} was made "
            f"({wanted[:12]}); bring the old file back."
        )
    noise = run.noise
    mode = choose_mode(config.engine.mode, base.weights, basis, noise=noise is not None)
    observer.note(mode.reason)
    models = []
    for name in _names(config, facts):
        genome = individual_genome(name, facts, state, basis)
        if genome is None:
            known = ", ".join([EXPERTS, *known_individuals(facts, state)])
            raise BadInputError(
                f"individuals: {name!r} is not in {path}; there are {known}."
            )
        print_ = json.dumps([base.fingerprint, genome_hash(genome), str(noise)])
        models.append(Model(name, hashlib.sha256(print_.encode()).hexdigest(), genome))
    family = Family(base, run.dtype, basis, noise, mode.mode, ())
    return family, tuple(models)


def _names(config: LanguageConfig, facts: dict) -> list[str]:
    """Of the individuals that are asked for; the base comes first in any case."""
    names = [BASE]
    for name in config.individuals:
        if name == EXPERTS:
            names += [f"expert/{task}" for task in facts["tasks"]]
        else:
            names.append(name)
    return list(dict.fromkeys(names))


def _stamp(path: pathlib.Path) -> str:
    """Of a file or the files of a folder: names, sizes and times of change."""
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*"))
    stats = [(p, p.stat()) for p in found if p.is_file()]
    rows = [[str(p.name), stat.st_size, stat.st_mtime_ns] for p, stat in stats]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


class Stage:
    """Where models are loaded; keeps one engine, as large as was needed so far."""

    def __init__(self, family: Family, engine: EngineSettings):
        self._family = family
        self._settings = engine
        self._mesh = make_mesh(engine.mesh)
        self._base: Weights | None = None
        self._engine: Engine | None = None
        self._loaded: tuple[Weights, object] | None = None
        self._speaking: LoadedModel | None = None
        self._program: CausalLM | None = None

    def groups(self, per_pass: int) -> list[tuple[Model, ...]]:
        """Models that are asked together, in the order of tables."""
        groups: list[tuple[Model, ...]] = []
        sharing: list[Model] = []
        for model in self._family.models:
            if self._family.mode == "factored" and isinstance(model.source, Genome):
                sharing.append(model)
            else:
                groups.append((model,))
        shared = [
            tuple(sharing[first : first + per_pass])
            for first in range(0, len(sharing), per_pass)
        ]
        return shared + groups

    @contextlib.contextmanager
    def speaking(
        self, group: tuple[Model, ...]
    ) -> Iterator[tuple[Speaker, Callable[[int], Engine]]]:
        """Loads the models of a group.

        Yields:
          What they have in common, and what gives the engine for conversations of so
          many tokens.
        """
        model, weights, population = self._load(group)
        if self._speaking is None or _differ(self._speaking, model):
            self._engine = None
            self._program = make_program(
                model.config, self._family.dtype, self._settings
            )
            self._speaking = model
        self._loaded = weights, population
        if self._engine is not None:
            self._engine.load(weights, population)
        longest = model.config.max_position_embeddings
        try:
            yield Speaker(model.tokenizer, longest), self._engine_for
        finally:
            # Two individuals' weights need not fit at once.
            self._loaded = None
            if self._engine is not None:
                self._engine.load({})

    def _engine_for(self, length: int) -> Engine:
        settings, model = self._settings, self._speaking
        if self._engine is not None and self._engine.settings.length >= length:
            return self._engine
        if settings.length != "auto" and settings.length < length:
            raise BadInputError(
                f"engine.length is {settings.length}; a problem needs {length} tokens, "
                "so set it to auto or that much, or cut contexts with max_length."
            )
        step = max(_LENGTH_STEP, settings.prefill_chunk)
        step = -(-step // settings.prefill_chunk) * settings.prefill_chunk
        whole = -(-length // step) * step
        if settings.length != "auto":
            whole = settings.length
        settings = settings.model_copy(update={"length": whole})
        settings = settings.model_copy(update={"slots": self._slots(settings)})
        self._engine = None  # the old cache goes first
        engine = Engine(self._program, model.tokenizer, settings, mesh=self._mesh)
        engine.load(*self._loaded)
        self._engine = engine
        return engine

    def _slots(self, settings: EngineSettings) -> int:
        if settings.slots != "auto":
            return settings.slots
        machine, data = this_machine(), settings.mesh.data
        memory = machine.host_bytes
        if machine.device_bytes is not None:
            memory = machine.device_bytes * data * settings.mesh.tensor
        one = cache_bytes(self._speaking.config, self._family.dtype) * settings.length
        most = _MOST_SLOTS.get(jax.default_backend(), _MOST_SLOTS_ELSEWHERE)
        least = -(-settings.prefill_rows // data) * data
        slots = min(int(memory * _CACHE_SHARE) // one, max(most, least)) // data * data
        if slots < least:
            raise BadInputError(
                f"engine.slots: {least} slots of {settings.length} tokens need "
                f"{size_text(least * one)} for keys and values, more than "
                f"{_CACHE_SHARE:.0%} of this machine's memory; choose fewer "
                "engine.prefill_rows, or cut contexts with max_length."
            )
        return slots

    def _load(self, group: tuple[Model, ...]):
        """The model that a group is of, its weights and its population."""
        family, first = self._family, group[0]
        if not isinstance(first.source, Genome):
            self._base = None
            return self._load_folder(first)
        if self._base is None:
            self._base = put_on_device(family.base.weights, self._mesh)
        if family.mode == "factored":
            population = empty_population(family.basis, len(group))
            for row, model in enumerate(group):
                population = with_individual(
                    population, family.basis, model.source, row
                )
            return family.base, self._base, population
        weights = materialise(self._base, family.basis, first.source, family.noise)
        return family.base, weights, None

    def _load_folder(self, model: Model):
        family = self._family
        if model.name == BASE:
            return family.base, put_on_device(family.base.weights, self._mesh), None
        path = locate(model.source)
        if (path / "adapter_config.json").is_file():
            expert = load_expert(path, family.base)
            own = ExpertWeights(family.base.weights, expert)
            return family.base, put_on_device(own, self._mesh), None
        loaded = load_model(model.source, dtype=family.dtype)
        weights = put_on_device(loaded.weights, self._mesh)
        return loaded, weights, None


def _differ(one: LoadedModel, other: LoadedModel) -> bool:
    """Whether an engine of one cannot speak for the other."""
    prints = one.tokenizer.fingerprint, other.tokenizer.fingerprint
    return one.config != other.config or prints[0] != prints[1]
