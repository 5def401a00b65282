"""Language retention: the scores of a run's individuals on tasks of the harness.

The responses are asked of all individuals at once; filters, metrics and aggregation are
lm-evaluation-harness's own. Needs the extra `language`.
"""

import json
import numbers
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.evaluator_utils import _process_results

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.language_models import Models, json_hash
from cycleqd_jax.runs.language_settings import LanguageConfig, ScoreSettings
from cycleqd_jax.runs.names import BASE
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
    models = Models(config, observer)
    decisive = config.model_dump(mode="json", include={*ScoreSettings.model_fields})
    facts = [load.VERSION, models.dtype, included, decisive]
    with RunFolder(output, resume=True) as folder:
        finished = folder.path / "finished.json"
        known = _read(finished)
        keys = {
            (task, name): json_hash([own, task, *facts])
            for task in config.tasks
            for name, own in models.fingerprints.items()
        }

        def fill(models: Models) -> None:
            """Asks some models what is not known yet; keeps every task when done."""
            for task in config.tasks:
                missing = [n for n in models.individuals if keys[task, n] not in known]
                if not missing:
                    continue
                observer.phase(f"{task}: {', '.join(missing)}")
                loaded = load.load_task(task, manager, unsafe_code=config.unsafe_code)
                found = _ask(task, loaded, models, missing, config, observer)
                known.update({keys[task, name]: own for name, own in found.items()})
                files.write_sealed(finished, known)

        fill(models)
        for name in models.others:
            if any(keys[task, name] not in known for task in config.tasks):
                fill(models.other(name, observer))
        rows = _relative({pair: known[key] for pair, key in keys.items()})
        result = {
            "lm_eval": load.VERSION,
            "settings": config.model_dump(mode="json"),
            "models": models.fingerprints,
            "scores": rows,
            "mean_relative": {name: _mean(rows, name) for name in models.fingerprints},
        }
        files.write_json(folder.path / "language.json", result)
    return result


def _read(finished: pathlib.Path) -> dict[str, Rows]:
    """The scores of finished tasks, by a hash of all that decides them."""
    if not finished.exists():
        return {}
    try:
        return files.read_sealed(finished)
    except BadInputError as err:
        raise BadInputError(
            f"{str(err).rstrip('.')}; delete it to begin anew."
        ) from err


def _ask(
    name: str,
    loaded: Mapping[str, Any],
    models: Models,
    asked: Sequence[str],
    settings: ScoreSettings,
    observer: Observer,
) -> dict[str, Rows]:
    """The scores of the models that are asked, all at once."""
    ids = [
        f"{leaf}/{i}"
        for leaf, task in loaded["tasks"].items()
        for i in range(len(task.eval_docs))[: settings.limit]
    ]
    task = HarnessTask(name, loaded["tasks"], settings, {Split.TEST: ids}, models.room)
    individuals = {one: models.individuals[one] for one in asked}
    with models.evaluator(task) as asking:
        found = asking.evaluate(individuals, Split.TEST, progress=observer.episodes)
    rows = {}
    for one in asked:
        judged: dict[str, Any] = {
            leaf: {"task": t, "raw_metrics": defaultdict(list), "logged_samples": []}
            for leaf, t in loaded["tasks"].items()
        }
        for episode in found.episodes:
            if episode.individual == one:
                metrics = judged[episode.problem.rpartition("/")[0]]["raw_metrics"]
                responses = json.loads(episode.answer)
                for metric, value in task.judge(episode.problem, responses).items():
                    metrics[metric].append(value)
        with load.guarded(name):
            results = _process_results(
                judged, loaded["groups"], settings.bootstrap_iters
            )
        rows[one] = score_rows(name, results._to_eval_results())
    return rows


def score_rows(name: str, results: Mapping[str, Any]) -> Rows:
    """The harness's metrics of `name`, then those of the tasks inside a group.

    Each row has `task`, `metric` (see `metric_name`), `value`, `stderr` or None,
    `higher_is_better` or None, `problems` (their number) and `is_part`, whether it is
    of a task inside the group that was asked for.
    """
    # Where a group has no score of its own, its tasks' scores are what was asked for.
    has_own = name in results.get("groups", {}) or name in results["configs"]
    rows = []
    for task, metrics in results["results"].items():
        better = results["higher_is_better"].get(task, {})
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")  # without a comma it is no metric
            if not kind or metric.endswith("_stderr") or not _is_number(value):
                continue
            error = metrics.get(f"{metric}_stderr,{kind}")
            row = {"task": task, "metric": metric_name(metric, kind)}
            row |= {"value": float(value), "is_part": has_own and task != name}
            row["stderr"] = float(error) if _is_number(error) else None
            row["higher_is_better"] = better.get(metric)
            rows.append(row | {"problems": int(metrics.get("sample_len", 0))})
    return sorted(rows, key=lambda row: row["is_part"])


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def _relative(found: Mapping[tuple[str, str], Rows]) -> Rows:
    """The scores of every task and model, with the base's as the unit."""
    rows = []
    for (task, name), scores in found.items():
        base = {(row["task"], row["metric"]): row["value"] for row in found[task, BASE]}
        for row in scores:
            unit = base.get((row["task"], row["metric"]))
            relative = row["value"] / unit if unit else None
            rows.append({"model": name, "asked": task, **row, "relative": relative})
    return rows


def _mean(rows: Rows, name: str) -> float | None:
    """The mean over tasks of each one's mean over metrics where more is better."""
    by_task: dict[str, list[float]] = {}
    for row in rows:
        counts = row["higher_is_better"] is not False and not row["is_part"]
        if row["model"] == name and counts and row["relative"] is not None:
            by_task.setdefault(row["asked"], []).append(row["relative"])
    means = [np.mean(values) for values in by_task.values()]
    return float(np.mean(means)) if means else None
