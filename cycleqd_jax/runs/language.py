"""Language retention: the scores of a run's individuals on language tasks.

Every finished task is saved in one sealed file per individual. The same measurement,
started again, continues after the last finished task.
"""

import hashlib
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cycleqd_jax import files
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.language.panel import Panel
from cycleqd_jax.evaluation.language.settings import (
    HarnessSettings,
    LanguageConfig,
)
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.language_models import Models, json_hash
from cycleqd_jax.runs.names import BASE

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("model", "asked", "task", "metric")]
    + [("value", pa.float64()), ("stderr", pa.float64())]
    + [("higher_is_better", pa.bool_()), ("problems", pa.int64())]
    + [("is_part", pa.bool_()), ("relative", pa.float64())]
)


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
    models = Models(config, observer)
    decisive = config.model_dump(mode="json", include={*HarnessSettings.model_fields})
    facts = [harness.VERSION, models.dtype, included, decisive]
    with RunFolder(output, resume=True) as folder:
        paths, found = {}, {}
        for task, (name, own) in itertools.product(
            config.tasks, models.fingerprints.items()
        ):
            parts = task, name, json_hash([own, task, *facts])[:12]
            file = "--".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)
            paths[task, name] = folder.path / "parts" / f"{file}.json"
            found[task, name] = _kept(paths[task, name])

        def ask(models: Models) -> None:
            """Fills `found` for some models, and saves every task when it is done."""
            longest = models.base.config.max_position_embeddings
            for task in config.tasks:
                individuals = models.individuals
                missing = {
                    n: individuals[n] for n in _missing(found, task, individuals)
                }
                if not missing:
                    continue
                observer.phase(f"{task}: {', '.join(missing)}")
                loaded = harness.load_task(task, manager, config)
                panel = Panel(models.loader, missing, observer.episodes)
                for name in missing:
                    tokenizer = models.base.tokenizer
                    model = lm.EngineLM(panel, name, tokenizer, config, longest)
                    scores = harness.run_task(task, loaded, model, config)
                    part = {"model": name, "task": task, "scores": scores}
                    files.write_sealed(paths[task, name], part)
                    found[task, name] = scores

        ask(models)
        models.release()
        for name in models.others:
            if any(_missing(found, task, [name]) for task in config.tasks):
                ask(models.other(name, observer))
        rows = _rows(found)
        result = {
            "lm_eval": harness.VERSION,
            "settings": config.model_dump(mode="json"),
            "models": models.fingerprints,
            "scores": rows,
            "mean_relative": {name: _mean(rows, name) for name in models.fingerprints},
        }
        table = folder.path / "language.parquet"
        files.write_table(table, pa.Table.from_pylist(rows, schema=_SCHEMA))
        files.write_json(folder.path / "language.json", result)
    return result


def _missing(found: Mapping, task: str, names: Iterable[str]) -> list[str]:
    """Names whose scores on the task are not known yet."""
    return [name for name in names if found[task, name] is None]


def _rows(found: Mapping[tuple[str, str], Sequence[dict]]) -> list[dict[str, Any]]:
    """The scores of every task and model, with the base's as the unit."""
    rows = []
    for (task, name), scores in found.items():
        base = {(row["task"], row["metric"]): row["value"] for row in found[task, BASE]}
        for row in scores:
            unit = base.get((row["task"], row["metric"]))
            relative = row["value"] / unit if unit else None
            rows.append({"model": name, "asked": task, **row, "relative": relative})
    return rows


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
