"""The models of a language measurement, and the engines that they run in."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.language.settings import EXPERTS, LanguageConfig
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.population import place_basis
from cycleqd_jax.merging.genome import Genome, genome_hash
from cycleqd_jax.merging.individuals import Adapter, Individual
from cycleqd_jax.merging.mode import choose_mode
from cycleqd_jax.models import chat_template
from cycleqd_jax.models.loading import (
    LoadedModel,
    check_same_tokens,
    load_model,
)
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.engine_sizes import check_length, choose_slots_alone
from cycleqd_jax.runs.names import BASE, expert_name
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.runs.setup import make_mesh, make_program

_LENGTH_STEP = 256  # every new length of the engine compiles new programs


class Models:
    """A base model and fine-tunes of it, and the engine that they run in.

    Attributes:
      base: the base model, on the host.
      dtype: of weights and computation.
      individuals: by name, the base first; None is the base where there is no run.
      others: name -> path of models in `config.models` that are no fine-tunes of the
        base; they need an engine of their own.
      fingerprints: name -> sha256 of everything that decides weights and prompts, also
        of `others`.
    """

    def __init__(self, config: LanguageConfig, observer: Observer, name: str = BASE):
        """Loads the base model and reads all others once, to check them.

        Args:
          config: models and engine.
          observer: hears of progress.
          name: of the base model.

        Raises:
          BadInputError: a model is missing, damaged or unknown.
        """
        observer.phase(f"loading the model {name}")
        self._config, self._mesh = config, make_mesh(config.engine.mesh)
        self._basis = self._noise = self._loader = None
        self._mode, experts = "materialised", {}
        self.individuals: dict[str, Individual | None] = {name: None}
        if config.run is None:
            self.dtype = config.dtype or "float32"
            date = config.date or chat_template.DATE
            self.base = load_model(config.base_model, dtype=self.dtype, date=date)
        else:
            run = open_run(config.run, finished=True)
            for asked in (name, *config.individuals):
                every = map(expert_name, run.experts) if asked == EXPERTS else [asked]
                self.individuals |= {one: run.individual(one) for one in every}
            self.dtype, self.base = run.config.dtype, run.load_base()
            self._basis, self._noise = run.basis, run.config.noise
            experts = run.whole_models(self.base).experts
            shapes = self.base.config.weight_shapes()
            dtype = jnp.dtype(self.dtype)
            chosen = choose_mode(
                config.engine.mode,
                {n: jax.ShapeDtypeStruct(s, dtype) for n, s in shapes.items()},
                self._basis,
                noise=self._noise is not None,
            )
            observer.note(chosen.reason)
            self._mode = chosen.mode
        check_length(config.engine, self.base.config)
        self._whole = WholeModels(self.base, experts, self._mesh)
        self.fingerprints = {n: self._print(i) for n, i in self.individuals.items()}
        self.others: dict[str, str] = {}
        for other, path in config.models.items():
            try:
                check_same_tokens(path, self.base)
                self.fingerprints[other] = self._print(Adapter(path))
                self.individuals[other] = Adapter(path)
            except BadInputError as error:
                self.fingerprints[other] = self._print_other(path, error)
                self.others[other] = path
        self._weights = put_on_device(self.base.weights, self._mesh)
        self._basis = self._basis and place_basis(self._basis, self._mesh)
        self._program = make_program(self.base.config, self.dtype, config.engine)

    def loader(self, length: int) -> IndividualLoader:
        """The last loader if its engine has room for `length` tokens, else a new one.

        Raises:
          BadInputError: `engine.length` or the memory is too small.
        """
        settings = self._config.engine
        if self._loader and self._loader.engine.settings.length >= length:
            return self._loader
        if settings.length == "auto":
            for step in (_LENGTH_STEP, settings.prefill_chunk):
                length = -(-length // step) * step
            settings = settings.model_copy(update={"length": length})
        elif settings.length < length:
            raise BadInputError(
                f"engine.length is {settings.length}; a problem needs {length} tokens, "
                "set it to auto or that much, or cut contexts with max_length."
            )
        settings = choose_slots_alone(settings, self.base.config, self.dtype)
        self._loader = None  # frees its cache first
        tokenizer = self.base.tokenizer
        self._loader = IndividualLoader(
            engine=Engine(self._program, tokenizer, settings, mesh=self._mesh),
            weights=self._weights,
            basis=self._basis,
            mode=self._mode,
            individuals_per_pass=self._config.individuals_per_pass,
            noise=self._noise,
            whole=self._whole,
        )
        return self._loader

    def other(self, name: str, observer: Observer) -> "Models":
        """One of `others`, alone."""
        own = {"run": None, "models": {}, "dtype": self.dtype}
        own |= {"base_model": self.others[name], "date": self.base.tokenizer.date}
        return Models(self._config.model_copy(update=own), observer, name)

    def release(self) -> None:
        """Frees the engine and the weights on the device; no loader can follow."""
        self._loader = self._weights = None

    def _print_other(self, path: str, error: BadInputError) -> str:
        """The hash of a model that is no fine-tune of the base.

        Raises:
          BadInputError: it is no whole model either; this is `error`, which says why it
            is no fine-tune.
        """
        try:
            model = load_model(path, dtype=self.dtype, date=self.base.tokenizer.date)
        except BadInputError:
            raise error from None
        check_length(self._config.engine, model.config)
        return _model_hash(model, None, "None")

    def _print(self, individual: Individual | None) -> str:
        if individual is None:
            own = None
        elif isinstance(individual, Genome):
            own = genome_hash(individual)
        else:
            own = self._whole.fingerprint(individual)
        return _model_hash(self.base, own, str(self._noise))


def _model_hash(base: LoadedModel, own: str | None, noise: str) -> str:
    date = base.tokenizer.date.isoformat()
    return json_hash([base.fingerprint, own, noise, date])


def json_hash(data: Any) -> str:
    """The sha256 of plain data."""
    text = json.dumps(data, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
