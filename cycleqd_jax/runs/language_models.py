"""The models of a language measurement, and the engine that they run in."""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.evaluation.local import LocalEvaluator
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
from cycleqd_jax.runs.engine_sizes import (
    check_length,
    check_prompts,
    choose_slots_alone,
)
from cycleqd_jax.runs.language_settings import EXPERTS, LanguageConfig
from cycleqd_jax.runs.names import BASE, expert_name
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.runs.setup import make_mesh, make_program
from cycleqd_jax.sandbox.none import UnsafeSandbox
from cycleqd_jax.tasks.base import Split, Task

_LENGTH_STEP = 256  # every new length of the engine compiles new programs


class Models:
    """A base model and fine-tunes of it.

    Attributes:
      dtype: of weights and computation.
      room: tokens of the longest context.
      individuals: by name, the base first; None is the base where there is no run.
      others: name -> path of models that are no fine-tunes, see `other`.
      fingerprints: name -> sha256 of everything that decides weights and prompts, also
        of `others`.
    """

    def __init__(self, config: LanguageConfig, observer: Observer, name: str = BASE):
        """Loads the base model, called `name`; reads all others once, to check them.

        Raises:
          BadInputError: a model is missing, damaged or unknown.
        """
        observer.phase(f"loading the model {name}")
        self._config, self._mesh = config, make_mesh(config.engine.mesh)
        self._loader: IndividualLoader | None = None
        self.individuals: dict[str, Individual | None] = {name: None}
        basis = noise = None
        experts: Mapping[str, str] = {}
        if config.run is None:
            self.dtype = config.dtype or "float32"
            date = config.date or chat_template.DATE
            base = load_model(config.base_model, dtype=self.dtype, date=date)
        else:
            run = open_run(config.run, finished=True)
            for asked in (name, *config.individuals):
                every = map(expert_name, run.experts) if asked == EXPERTS else [asked]
                self.individuals |= {one: run.individual(one) for one in every}
            self.dtype, base = run.config.dtype, run.load_base()
            basis, noise = run.basis, run.config.noise
            experts = run.whole_models(base).experts
        self._date = base.tokenizer.date
        check_length(config.engine, base.config)
        whole = WholeModels(base, experts, self._mesh)
        print_of = functools.partial(_fingerprint, base, str(noise), whole)
        self.fingerprints = {n: print_of(i) for n, i in self.individuals.items()}
        self.others: dict[str, str] = {}
        for other, path in config.models.items():
            try:
                check_same_tokens(path, base)
                self.fingerprints[other] = print_of(Adapter(path))
                self.individuals[other] = Adapter(path)
            except BadInputError as error:
                self.fingerprints[other] = self._print_other(path, error)
                self.others[other] = path
        self.room = config.max_length or base.config.max_position_embeddings
        self._tokenizer = base.tokenizer.with_arguments(config.chat_template_args)
        self._model = base.config
        self._program = make_program(base.config, self.dtype, config.engine)
        weights, mode = put_on_device(base.weights, self._mesh), "materialised"
        if basis is not None:
            chosen = choose_mode(
                config.engine.mode, weights, basis, noise=noise is not None
            )
            observer.note(chosen.reason)
            basis, mode = place_basis(basis, self._mesh), chosen.mode
        self._parts = dict(
            weights=weights,
            basis=basis,
            mode=mode,
            individuals_per_pass=config.individuals_per_pass,
            noise=noise,
            whole=whole,
        )

    def evaluator(self, task: Task) -> LocalEvaluator:
        """Asks one task; the engine is the last one's if that is long enough.

        Raises:
          BadInputError: `engine.length` or the memory is too small.
        """
        own = self._config.engine
        sized = check_prompts([task], [Split.TEST], self._tokenizer, own)
        if self._loader is None or self._loader.engine.settings.length < sized.length:
            if own.length == "auto":
                step = max(_LENGTH_STEP, own.prefill_chunk)
                length = -(-sized.length // step) * step
                sized = own.model_copy(update={"length": length})
            sized = choose_slots_alone(sized, self._model, self.dtype)
            self._loader = None  # frees its cache first
            engine = Engine(self._program, self._tokenizer, sized, mesh=self._mesh)
            self._loader = IndividualLoader(engine=engine, **self._parts)
        sandbox = UnsafeSandbox(1)  # runs nothing: these tasks have no programs
        return LocalEvaluator(self._loader, tasks=[task], sandbox=sandbox)

    def other(self, name: str, observer: Observer) -> "Models":
        """One of `others` alone, with its own tokeniser; frees this one's memory."""
        self._loader, self._parts = None, {}
        own = {"run": None, "models": {}, "dtype": self.dtype, "date": self._date}
        own["base_model"] = self.others[name]
        return Models(self._config.model_copy(update=own), observer, name)

    def _print_other(self, path: str, error: BadInputError) -> str:
        """The fingerprint of a whole model; raises `error` if it is none either."""
        try:
            model = load_model(path, dtype=self.dtype, date=self._date)
        except BadInputError:
            raise error from None
        check_length(self._config.engine, model.config)
        return _fingerprint(model, "None", None, None)


def _fingerprint(
    base: LoadedModel,
    noise: str,
    whole: WholeModels | None,
    individual: Individual | None,
) -> str:
    own = None
    if isinstance(individual, Genome):
        own = genome_hash(individual)
    elif individual is not None:
        own = whole.fingerprint(individual)
    return json_hash([base.fingerprint, own, noise, base.tokenizer.date.isoformat()])


def json_hash(data: Any) -> str:
    """The sha256 of plain data."""
    text = json.dumps(data, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
