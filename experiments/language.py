"""Measures what a merge has kept of language, with lm-evaluation-harness.

    python -m experiments.language \
        --config experiments/configs/language.yaml [key=value ...]

Asks base, experts and result of a run (or models by path) any of the harness's tasks,
prints their scores relative to the base, and writes language.json and language.parquet.
Started again with the same command, it goes on behind the last task that was finished.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence

import pyarrow as pa
import rich.table

from cycleqd_jax import files
from cycleqd_jax.config import load_config
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.evaluation.language.engine import Panel
from cycleqd_jax.evaluation.language.scores import Score, retention
from cycleqd_jax.evaluation.language.settings import (
    LanguageConfig,
)
from cycleqd_jax.evaluation.language.task import Harness
from cycleqd_jax.reports import console
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.names import BASE
from experiments.language_models import Model, Stage, open_family

_ODD = re.compile(r"[^\w.-]+")
Results = dict[tuple[str, str], list[Score]]  # (model's name, task as asked) -> scores


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and measures; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.language",
        description="Ask models the tasks of lm-evaluation-harness and compare them "
        "with the base.",
        epilog="Settings override the config: tasks=[rte,sst2] limit=100.",
    )
    parser.add_argument("--config", required=True, help="a YAML file of settings")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings that override it"
    )
    args = parser.parse_args(argv)
    again = [sys.executable, "-m", "experiments.language", "--config", args.config]
    again = shlex.join([*again, *args.settings])
    return console.guarded(
        lambda: _measure(
            load_config(args.config, args.settings, LanguageConfig),
            pathlib.Path(args.config).stem,
        ),
        interrupted=f"Tasks that were finished are kept; go on with: {again}",
    )


def _measure(config: LanguageConfig, stem: str) -> int:
    console.set_up_process()
    # The harness would fork a process that has threads.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    # The harness's own notes about tokenisers and forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    output = config.output or (
        f"{config.run}/language" if config.run else f"runs/{stem}"
    )
    included = _included(config)
    with console.ConsoleObserver() as observer:
        observer.phase("looking for the tasks")
        harness = Harness(config.protocol, config.include)
        tasks = config.tasks or harness.default_tasks()
        harness.check(tasks)
        family = open_family(config, observer)
        with RunFolder(output, resume=True) as folder:
            keeper = _Keeper(folder, config, included, harness.version, family.dtype)
            stage = Stage(family, config.engine)
            results: Results = {}
            for group in stage.groups(config.individuals_per_pass):
                results |= _ask_group(group, tasks, harness, stage, keeper, observer)
            names = [model.name for model in family.models]
            rows = _rows(results, names, tasks)
            _write(folder, config, harness.version, family.models, rows)
    out = console.make_console()
    out.print(_table(rows, names, plain=not out.is_terminal))
    for name, value in _means(rows, names).items():
        out.print(f"mean of scores relative to {BASE}: {name} {_share(value)}")
    out.print(f"written: {output}/language.json", soft_wrap=True, highlight=False)
    return console.DONE


def _ask_group(group, tasks, harness, stage, keeper, observer) -> Results:
    """The scores of models that are asked together, task by task."""
    results: Results = {}
    missing: dict[str, list[Model]] = {}
    for task in tasks:
        for model in group:
            scores = keeper.read(model, task)
            if scores is None:
                missing.setdefault(task, []).append(model)
            else:
                results[model.name, task] = scores
    if not missing:
        return results
    with stage.speaking(group) as (speaker, engine_for):
        for task, models in missing.items():
            who = ", ".join(model.name for model in models)
            observer.phase(f"{task}: {who}")
            loaded = harness.load(task)
            start = time.perf_counter()
            counter = _Counter(observer)
            places = tuple(group.index(model) for model in models)
            found = harness.run(
                task, loaded, speaker, Panel(engine_for, places, counter)
            )
            for model, scores in zip(models, found, strict=True):
                keeper.write(model, task, scores)
                results[model.name, task] = scores
            seconds = time.perf_counter() - start
            observer.note(
                f"  {counter.total} requests in {seconds:.0f} s, "
                f"{counter.total / seconds:.1f} requests/s"
            )
    return results


class _Counter:
    """Tells an observer of answers, and counts them.

    Attributes:
      total: answers of all calls.
    """

    def __init__(self, observer):
        self._observer = observer
        self.total = 0

    def __call__(self, done: int, total: int) -> None:
        """One more answer."""
        self.total += 1
        self._observer.episodes(done, total)


@dataclasses.dataclass(frozen=True)
class _Keeper:
    """Finished scores, one file per model and task; others' settings have others."""

    folder: RunFolder
    config: LanguageConfig
    included: list
    version: str
    dtype: str

    def read(self, model: Model, task: str) -> list[Score] | None:
        """None where they are not there, or damaged."""
        path = self._path(model, task)
        if not path.is_file():
            return None
        try:
            return [Score(*row) for row in files.read_sealed(path)["scores"]]
        except (BadInputError, KeyError, TypeError):
            return None  # it is made again

    def write(self, model: Model, task: str, scores: Sequence[Score]) -> None:
        """Keeps them."""
        data = {"model": model.name, "task": task, "scores": [list(s) for s in scores]}
        files.write_sealed(self._path(model, task), data)

    def _path(self, model: Model, task: str) -> pathlib.Path:
        config = self.config
        own = [model.fingerprint, task, self.version, self.dtype, self.included]
        text = json.dumps([own, dict(config.protocol._asdict())], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        name = "--".join(_ODD.sub("-", part) for part in (task, model.name, key))
        return self.folder.path / "parts" / f"{name}.json"


def _included(config: LanguageConfig) -> list[list[str]]:
    """Names and hashes of the files in the folders of task files of one's own."""
    found = []
    for folder in map(pathlib.Path, config.include):
        if not folder.is_dir():
            raise BadInputError(f"include: {folder} is no folder; see to its name.")
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if path.suffix != ".pyc":
                name = str(path.relative_to(folder))
                found.append([name, hashlib.sha256(path.read_bytes()).hexdigest()])
    return found


def _rows(results: Results, names: Sequence[str], tasks: Sequence[str]) -> list[dict]:
    """One row per model, task and metric, with what it is relative to the base."""
    rows = []
    for asked in tasks:
        base = {(s.task, s.metric): s.value for s in results[BASE, asked]}
        for name in names:
            for score in results[name, asked]:
                own = base.get((score.task, score.metric), 0.0)
                row = {"model": name, "asked": asked, **score._asdict()}
                rows.append(row | {"relative": retention(score.value, own)})
    return rows


def _write(folder, config, version, models, rows) -> None:
    schema = pa.schema(
        [(name, pa.string()) for name in ("model", "asked", "task", "metric")]
        + [("value", pa.float64()), ("stderr", pa.float64())]
        + [("higher_is_better", pa.bool_()), ("problems", pa.int64())]
        + [("is_part", pa.bool_()), ("relative", pa.float64())]
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    files.write_table(folder.path / "language.parquet", table)
    facts = {
        "lm_eval": version,
        "settings": config.model_dump(mode="json"),
        "models": {model.name: model.fingerprint for model in models},
        "scores": rows,
        "mean_relative": _means(rows, [model.name for model in models]),
    }
    files.write_json(folder.path / "language.json", facts)


def _means(rows: Sequence[Mapping], names: Sequence[str]) -> dict[str, float | None]:
    """The mean over tasks of each one's mean over metrics for which more is better."""
    means = {}
    for name in names:
        by_task: dict[str, list[float]] = {}
        for row in rows:
            counts = row["higher_is_better"] is not False and not row["is_part"]
            if row["model"] == name and counts and row["relative"] is not None:
                by_task.setdefault(row["asked"], []).append(row["relative"])
        values = [sum(v) / len(v) for v in by_task.values()]
        means[name] = sum(values) / len(values) if values else None
    return means


def _table(rows: Sequence[Mapping], names: Sequence[str], *, plain: bool):
    title = f"scores, and relative to {BASE}"
    table = rich.table.Table(title=title, safe_box=plain)
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        if row["is_part"]:
            continue
        key = row["asked"], row["task"], row["metric"]
        text = f"{row['value']:.4f}"
        if row["model"] != BASE:
            text += f" ({_share(row['relative'])})"
        cells.setdefault(key, {})[row["model"]] = text
    for (_, task, metric), own in cells.items():
        # Brackets would be markup.
        table.add_row(
            task, metric.replace("[", "\\["), *(own.get(name, "-") for name in names)
        )
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    sys.exit(main())
