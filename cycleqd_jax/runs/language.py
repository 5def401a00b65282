"""Language retention: the scores of a run's individuals on tasks of the harness.

The responses are asked of all individuals at once; filters, metrics and aggregation are
lm-evaluation-harness's own. Needs the extra `language`.
"""

import dataclasses
import json
import numbers
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.evaluator_utils import _process_results

from cycleqd_jax import files
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
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.models.locate import locate
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.engine_sizes import (
    check_length,
    check_prompts,
    choose_slots_alone,
)
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.language_settings import EXPERTS, LanguageConfig, ScoreSettings
from cycleqd_jax.runs.names import BASE, expert_name
from cycleqd_jax.runs.opened import OpenedRun, open_run
from cycleqd_jax.runs.setup import make_mesh, make_program
from cycleqd_jax.sandbox.none import UnsafeSandbox
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.harness import load
from cycleqd_jax.tasks.harness.task import HarnessTask, metric_name

Rows = list[dict[str, Any]]


def measure(config: LanguageConfig, output: str, observer: Observer) -> dict[str, Any]:
    """Runs all tasks on all models; what is finished in `output` is not run again.

    Returns:
      The content of `language.json`. Rows of "scores" are those of `score_rows` with
      `model`, `asked` (the entry of `tasks`) and `relative`: the value divided by the
      base's, None where that is 0.

    Raises:
      BadInputError: a model or task is wrong.
      RunError: a task's own code fails.
    """
    observer.phase("looking for the tasks")
    included = load.file_hashes(config.include, "**/*")
    manager = load.find_tasks(config.tasks, config.include)
    observer.phase("reading the models")
    groups = _open(config)
    prints = {n: own.fingerprint(one) for own in groups for n, one in own.named.items()}
    decisive = config.model_dump(mode="json", include={*ScoreSettings.model_fields})
    facts = [load.VERSION, groups[0].dtype, included, decisive]
    keys = {
        (task, name): files.hash_arrays({}, [own, task, *facts])
        for task in config.tasks
        for name, own in prints.items()
    }
    with RunFolder(output, resume=True) as folder:
        finished = folder.path / "finished.json"
        try:
            known = files.read_sealed(finished) if finished.exists() else {}
        except BadInputError as err:
            text = f"{str(err).rstrip('.')}; delete it to begin anew."
            raise BadInputError(text) from err
        observer.phase("loading the tasks")
        missing = [pair for pair, key in keys.items() if key not in known]
        loaded = {
            task: load.load_task(task, manager, unsafe_code=config.unsafe_code)
            for task in dict.fromkeys(task for task, _ in missing)
        }
        for models in groups:
            pairs = [pair for pair in missing if pair[1] in models.named]
            for task, found in models.ask(pairs, loaded, observer):
                known |= {keys[task, name]: rows for name, rows in found.items()}
                files.write_sealed(finished, known)
        rows = [
            {"model": name, "asked": task, **row}
            for (task, name), key in keys.items()
            for row in known[key]
        ]
        _relate(rows)
        result = {
            "lm_eval": load.VERSION,
            "settings": config.model_dump(mode="json"),
            "models": prints,
            "scores": rows,
            "mean_relative": {name: _mean(rows, name) for name in prints},
        }
        files.write_json(folder.path / "language.json", result)
    return result


@dataclasses.dataclass(frozen=True)
class _Models:
    """A model and individuals of it, which one engine asks.

    Attributes:
      config: the settings.
      whole: the model itself, and what is no genome.
      dtype: of weights and computation.
      named: individuals by name; None is the model itself.
      run: whose basis genomes refer to; None where there are no genomes.
    """

    config: LanguageConfig
    whole: WholeModels
    dtype: str
    named: dict[str, Individual | None]
    run: OpenedRun | None = None

    def fingerprint(self, individual: Individual | None) -> str:
        """Sha256 (hex) of everything that decides its weights and prompts."""
        if isinstance(individual, Genome):
            own = genome_hash(individual)
        else:
            own = individual and self.whole.fingerprint(individual)
        base, noise = self.whole.base, str(self.run and self.run.config.noise)
        date = base.tokenizer.date.isoformat()
        return files.hash_arrays({}, [base.fingerprint, own, noise, date])

    def ask(
        self,
        pairs: Sequence[tuple[str, str]],
        loaded: Mapping[str, Mapping[str, Any]],
        observer: Observer,
    ) -> Iterator[tuple[str, dict[str, Rows]]]:
        """Scores of pairs (task, name), task by task: all individuals at once."""
        config, base = self.config, self.whole.base
        room = config.max_length or base.config.max_position_embeddings
        tasks = []
        for name in dict.fromkeys(task for task, _ in pairs):
            leaves = loaded[name]["tasks"]
            counts = {n: len(t.eval_docs) for n, t in leaves.items()}
            ids = [f"{n}/{i}" for n in leaves for i in range(counts[n])[: config.limit]]
            tasks.append(HarnessTask(name, leaves, config, {Split.TEST: ids}, room))
        loader = self._loader(tasks, observer) if tasks else None
        for task in tasks:
            asked = {name: self.named[name] for own, name in pairs if own == task.name}
            observer.phase(f"{task.name}: {', '.join(asked)}")
            sandbox = UnsafeSandbox(1)  # runs nothing: these tasks have no programs
            with LocalEvaluator(loader, tasks=[task], sandbox=sandbox) as asking:
                found = asking.evaluate(asked, Split.TEST, progress=observer.episodes)
            raw = {(n, leaf): defaultdict(list) for n in asked for leaf in task.leaves}
            for episode in found.episodes:
                values = raw[episode.individual, episode.problem.rpartition("/")[0]]
                responses = json.loads(episode.answer)
                for metric, one in task.judge(episode.problem, responses).items():
                    values[metric].append(one)
            rows, groups = {}, loaded[task.name]["groups"]
            for name in asked:
                judged = {
                    leaf: {"task": one, "raw_metrics": raw[name, leaf]}
                    | {"logged_samples": []}
                    for leaf, one in task.leaves.items()
                }
                with load.guarded(task.name):
                    results = _process_results(judged, groups, config.bootstrap_iters)
                rows[name] = score_rows(task.name, results._to_eval_results())
            yield task.name, rows

    def _loader(
        self, tasks: Sequence[HarnessTask], observer: Observer
    ) -> IndividualLoader:
        """The engine for tasks; its length is what their longest prompt needs."""
        config, base, mesh = self.config, self.whole.base, self.whole.mesh
        tokenizer = base.tokenizer.with_arguments(config.chat_template_args)
        sized = check_prompts(tasks, [Split.TEST], tokenizer, config.engine)
        sized = choose_slots_alone(sized, base.config, self.dtype)
        weights = put_on_device(base.weights, mesh)
        mode, basis, noise = "materialised", None, None
        if self.run is not None:
            basis, noise = place_basis(self.run.basis, mesh), self.run.config.noise
            chosen = choose_mode(sized.mode, weights, basis, noise=noise is not None)
            observer.note(chosen.reason)
            mode = chosen.mode
        program = make_program(base.config, self.dtype, sized)
        return IndividualLoader(
            engine=Engine(program, tokenizer, sized, mesh=mesh),
            weights=weights,
            basis=basis,
            mode=mode,
            individuals_per_pass=config.individuals_per_pass,
            noise=noise,
            whole=self.whole,
        )


def _open(config: LanguageConfig) -> list[_Models]:
    """All models that are asked; those of one base are together, and come first."""
    mesh, run, experts, named = make_mesh(config.engine.mesh), None, {}, {}
    if config.run is None:
        named[BASE], dtype = None, config.dtype or "float32"
        base = load_model(config.base_model, dtype, config.date or chat_template.DATE)
    else:
        run = open_run(config.run, finished=True)
        for asked in (BASE, *config.individuals):
            every = map(expert_name, run.experts) if asked == EXPERTS else [asked]
            named |= {name: run.individual(name) for name in every}
        dtype, base = run.config.dtype, run.load_base()
        experts = run.whole_models(base).experts
    found = [_Models(config, WholeModels(base, experts, mesh), dtype, named, run)]
    for name, path in config.models.items():
        if (locate(path) / "adapter_config.json").is_file():
            named[name] = Adapter(path)
        else:
            own = WholeModels(load_model(path, dtype, base.tokenizer.date), {}, mesh)
            found.append(_Models(config, own, dtype, {name: None}))
    for models in found:
        check_length(config.engine, models.whole.base.config)
    return found


def score_rows(name: str, results: Mapping[str, Any]) -> Rows:
    """The harness's metrics of `name`, then those of the tasks inside a group.

    Each row has `task`, `metric` (see `metric_name`), `value`, `stderr` or None,
    `higher_is_better` or None, `problems` (their number) and `is_part`, whether it is
    of a task inside the group that was asked for.
    """
    rows = []
    for task, metrics in results["results"].items():
        better = results["higher_is_better"].get(task, {})
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")  # without a comma it is no metric
            if not kind or metric.endswith("_stderr") or not _is_number(value):
                continue
            error = metrics.get(f"{metric}_stderr,{kind}")
            row = {"task": task, "metric": metric_name(metric, kind)}
            row |= {"value": float(value), "problems": int(metrics["sample_len"])}
            row["stderr"] = float(error) if _is_number(error) else None
            rows.append(row | {"higher_is_better": better.get(metric)})
    # Where a group has no score of its own, its tasks' scores are what was asked for.
    has_own = any(row["task"] == name for row in rows)
    rows = [row | {"is_part": has_own and row["task"] != name} for row in rows]
    return sorted(rows, key=lambda row: row["is_part"])


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def _relate(rows: Rows) -> None:
    """Adds `relative` to all rows."""
    place = ("asked", "task", "metric")
    base = {tuple(map(r.get, place)): r["value"] for r in rows if r["model"] == BASE}
    for row in rows:
        unit = base.get(tuple(map(row.get, place)))
        row["relative"] = row["value"] / unit if unit else None


def _mean(rows: Rows, name: str) -> float | None:
    """The mean over tasks of each one's mean over metrics where more is better."""
    by_task = defaultdict(list)
    for row in rows:
        counts = row["higher_is_better"] is not False and not row["is_part"]
        if row["model"] == name and counts and row["relative"] is not None:
            by_task[row["asked"]].append(row["relative"])
    means = [np.mean(values) for values in by_task.values()]
    return float(np.mean(means)) if means else None
