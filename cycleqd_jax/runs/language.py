"""Language retention: the scores of a run's individuals on language tasks.

Every finished task is saved in one sealed file per individual. The same measurement,
started again, continues after the last finished task.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.language.panel import Panel
from cycleqd_jax.evaluation.language.settings import (
    EXPERTS,
    HarnessSettings,
    LanguageConfig,
)
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.inference.population import choose_mode, place_basis
from cycleqd_jax.merging.genome import Genome, genome_hash
from cycleqd_jax.merging.individuals import Adapter, Individual
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.memory import cache_bytes, this_machine
from cycleqd_jax.runs.names import BASE, expert_name
from cycleqd_jax.runs.opened import open_run
from cycleqd_jax.runs.plan import choose_slots
from cycleqd_jax.runs.setup import make_mesh, make_program

_CACHE_SHARE = 1 / 3  # of the memory, for keys and values
_LENGTH_STEP = 256  # every new length of the engine compiles new programs
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("model", "asked", "task", "metric")]
    + [("value", pa.float64()), ("stderr", pa.float64())]
    + [("higher_is_better", pa.bool_()), ("problems", pa.int64())]
    + [("is_part", pa.bool_()), ("relative", pa.float64())]
)


class Models:
    """The models that are measured, and the engine that they run in.

    Attributes:
      base: the base model, on the host.
      dtype: of weights and computation.
      individuals: by name, the base first; None is the base where there is no run.
      fingerprints: name -> sha256 of everything that decides the weights.
    """

    def __init__(self, config: LanguageConfig, observer: Observer):
        """Loads the base model and reads all others once, to check them.

        Raises:
          BadInputError: a model is missing, damaged, unknown or not a fine-tune of the
            base.
        """
        observer.phase("loading the base model")
        self._config, self._mesh = config, make_mesh(config.engine.mesh)
        self._basis = self._noise = self._loader = None
        self._mode, experts = "materialised", {}
        self.individuals: dict[str, Individual | None] = {BASE: None}
        if config.run is None:
            self.dtype = config.dtype or "float32"
            self.base = load_model(config.base_model, dtype=self.dtype)
        else:
            run = open_run(config.run, finished=True)
            for name in (BASE, *config.individuals):
                every = map(expert_name, run.tasks) if name == EXPERTS else [name]
                self.individuals |= {one: run.individual(one) for one in every}
            self.dtype, self.base = run.config.dtype, run.load_base()
            self._basis, self._noise = run.basis, run.config.noise
            experts = run.whole_models(self.base).experts
            chosen = choose_mode(
                config.engine.mode,
                self.base.weights,
                self._basis,
                noise=self._noise is not None,
            )
            observer.note(chosen.reason)
            self._mode = chosen.mode
        self.individuals |= {n: Adapter(path) for n, path in config.models.items()}
        self._whole = WholeModels(self.base, experts, self._mesh)
        self.fingerprints = {n: self._print(i) for n, i in self.individuals.items()}
        self._weights = put_on_device(self.base.weights, self._mesh)
        self._basis = self._basis and place_basis(self._basis, self._mesh)
        self._program = make_program(self.base.config, self.dtype, config.engine)

    def loader(self, length: int) -> IndividualLoader:
        """The last loader if its engine has room for `length` tokens, else a new one.

        Raises:
          BadInputError: `engine.length` or the memory is too small.
        """
        settings, mesh = self._config.engine, self._config.engine.mesh
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
        machine = this_machine()
        devices = (machine.device_bytes or 0) * mesh.data * mesh.tensor
        settings = choose_slots(
            settings,
            cache_bytes(self.base.config, self.dtype),
            int((devices or machine.host_bytes) * _CACHE_SHARE),
        )
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

    def _print(self, individual: Individual | None) -> str:
        if individual is None:
            own = None
        elif isinstance(individual, Genome):
            own = genome_hash(individual)
        else:
            own = self._whole.expert(individual).fingerprint
        return _hash([self.base.fingerprint, own, str(self._noise)])


def measure(config: LanguageConfig, output: str, observer: Observer) -> dict[str, Any]:
    """Runs all tasks on all models.

    Args:
      config: models and tasks.
      output: folder of the results; tasks that are finished there are not run again.
      observer: hears of progress.

    Returns:
      The content of `language.json`. Rows of "scores" are those of
      `harness.score_rows` with `model`, `asked` (the entry of `tasks`) and `relative`:
      the value divided by the base's, None where that is 0.

    Raises:
      BadInputError: a model or task is wrong, or the harness is not installed.
      RunError: a task's own code fails.
    """
    try:
        import lm_eval  # noqa: F401

        from cycleqd_jax.evaluation.language import harness, lm
    except ImportError as err:
        raise BadInputError(
            f"language: lm-evaluation-harness cannot be imported ({err}); install it "
            "with pip install 'cycleqd-jax[language]'"
        ) from err
    observer.phase("looking for the tasks")
    included = _included(config.include)
    manager = harness.find_tasks(config.tasks, config.include)
    models, rows = Models(config, observer), []
    decisive = config.model_dump(mode="json", include={*HarnessSettings.model_fields})
    facts = [harness.VERSION, models.dtype, included, decisive]
    longest = models.base.config.max_position_embeddings
    with RunFolder(output, resume=True) as folder:
        for task in config.tasks:
            paths = {}
            for name, own in models.fingerprints.items():
                parts = task, name, _hash([own, task, *facts])[:12]
                file = "--".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)
                paths[name] = folder.path / "parts" / f"{file}.json"
            found = {name: _kept(path) for name, path in paths.items()}
            missing = {n: i for n, i in models.individuals.items() if found[n] is None}
            if missing:
                observer.phase(f"{task}: {', '.join(missing)}")
                loaded = harness.load_task(task, manager, config)
                panel = Panel(models.loader, missing, observer.episodes)
            for name in missing:
                model = lm.EngineLM(panel, name, models.base.tokenizer, config, longest)
                found[name] = harness.run_task(task, loaded, model, config)
                part = {"model": name, "task": task, "scores": found[name]}
                files.write_sealed(paths[name], part)
            base = {(row["task"], row["metric"]): row["value"] for row in found[BASE]}
            for name, scores in found.items():
                for row in scores:
                    value = base.get((row["task"], row["metric"]))
                    relative = row["value"] / value if value else None
                    row = {"model": name, "asked": task, **row, "relative": relative}
                    rows.append(row)
        result = {
            "lm_eval": harness.VERSION,
            "settings": config.model_dump(mode="json"),
            "models": models.fingerprints,
            "scores": rows,
            "mean_relative": {name: _mean(rows, name) for name in models.individuals},
        }
        table = folder.path / "language.parquet"
        files.write_table(table, pa.Table.from_pylist(rows, schema=_SCHEMA))
        files.write_json(folder.path / "language.json", result)
    return result


def _hash(data: Any) -> str:
    text = json.dumps(data, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _kept(path: pathlib.Path) -> list[dict[str, Any]] | None:
    """The scores in a part's file; None where it is missing or damaged."""
    try:
        return files.read_sealed(path)["scores"]
    except BadInputError:
        return None


def _included(folders: Sequence[str]) -> list[list[str]]:
    """Names and sha256 of all files in the folders of user-defined tasks."""
    found = []
    for folder in map(pathlib.Path, folders):
        if not folder.is_dir():
            raise BadInputError(f"include: {folder} is no folder; check the name.")
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if path.suffix != ".pyc":
                name = str(path.relative_to(folder))
                found.append([name, hashlib.sha256(path.read_bytes()).hexdigest()])
    return found


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """The mean over tasks of each one's mean over metrics where more is better."""
    by_task: dict[str, list[float]] = {}
    for row in rows:
        counts = row["higher_is_better"] is not False and not row["is_part"]
        if row["model"] == name and counts and row["relative"] is not None:
            by_task.setdefault(row["asked"], []).append(row["relative"])
    means = [sum(values) / len(values) for values in by_task.values()]
    return sum(means) / len(means) if means else None
