"""Language retention: the scores of a run's individuals on tasks of the harness.

The responses are asked of all individuals at once; filters, metrics and aggregation are
lm-evaluation-harness's own. Needs the extra `language`.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from statistics import fmean
from typing import Any, NamedTuple

from lm_eval.evaluator_utils import _process_results

from cycleqd_jax import files
from cycleqd_jax.errors import advising
from cycleqd_jax.evaluation.local import LocalEvaluator
from cycleqd_jax.evaluation.whole import WholeModels
from cycleqd_jax.merging.individuals import Adapter, Individual
from cycleqd_jax.models.loading import load_model
from cycleqd_jax.models.locate import locate
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs import engine_sizes, engines, opened
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.language_settings import EXPERTS, LanguageConfig, ScoreSettings
from cycleqd_jax.runs.names import BASE, expert_name
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.tasks.harness import load
from cycleqd_jax.tasks.harness.task import HarnessTask, metric_name


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
    prints = {}
    for group in groups:
        engine_sizes.check_length(config.engine, group.whole.base.config)
        for name, individual in group.named.items():
            prints[name] = group.whole.fingerprint(individual)
    # All that decides scores, beside the model and the task.
    facts = [load.VERSION, included]
    facts.append(config.model_dump(mode="json", include={*ScoreSettings.model_fields}))
    if run := groups[0].run:
        facts += [str(run.config.date), str(run.config.noise)]
    keys = {
        (task, name): files.hash_arrays({}, [own, task, *facts])
        for task in config.tasks
        for name, own in prints.items()
    }
    with RunFolder(output, resume=True) as folder:
        finished = folder.path / "finished.json"
        with advising("delete it to begin anew"):
            known = files.read_sealed(finished) if finished.exists() else {}
        observer.phase("loading the tasks")
        missing = [pair for pair, key in keys.items() if key not in known]
        loaded = {
            task: load.load_task(task, manager, unsafe_code=config.unsafe_code)
            for task in dict.fromkeys(task for task, _ in missing)
        }
        for group in groups:
            pairs = [pair for pair in missing if pair[1] in group.named]
            for pair, rows in _ask(config, group, pairs, loaded, observer):
                known[keys[pair]] = rows
                files.write_sealed(finished, known)
        rows = []
        for (task, name), key in keys.items():
            base = known[keys[task, BASE]]
            units = {(row["task"], row["metric"]): row["value"] for row in base}
            for row in known[key]:
                unit = units.get((row["task"], row["metric"]))
                share = row["value"] / unit if unit else None
                rows.append({"model": name, "asked": task, **row, "relative": share})
        result = {
            "lm_eval": load.VERSION,
            "settings": config.model_dump(mode="json"),
            "models": prints,
            "scores": rows,
            "mean_relative": {name: _mean(rows, name) for name in prints},
        }
        files.write_json(folder.path / "language.json", result)
    return result


class _Group(NamedTuple):
    """A model and individuals of it by name; None is the model itself."""

    whole: WholeModels
    named: dict[str, Individual | None]
    run: opened.OpenedRun | None = None  # whose basis and noise genomes refer to


def _open(config: LanguageConfig) -> list[_Group]:
    """All models that are asked; those of one base are together, and come first."""
    if config.run is None:
        base = load_model(config.base_model, config.dtype or "float32", config.date)
        groups = [_Group(WholeModels(base), {BASE: None})]
    else:
        run, named = opened.open_run(config.run, finished=True), {}
        for asked in (BASE, *config.individuals):
            every = map(expert_name, run.experts) if asked == EXPERTS else [asked]
            named |= {name: run.individual(name) for name in every}
        base = run.load_base()
        groups = [_Group(run.whole_models(base), named, run)]
    for name, path in config.models.items():
        if (locate(path) / "adapter_config.json").is_file():
            groups[0].named[name] = Adapter(path)
        else:
            own = load_model(path, base.dtype, base.tokenizer.date)
            groups.append(_Group(WholeModels(own), {name: None}))
    return groups


def _ask(
    config: LanguageConfig,
    group: _Group,
    pairs: Sequence[tuple[str, str]],
    loaded: Mapping[str, Mapping[str, Any]],
    observer: Observer,
) -> Iterator[tuple[tuple[str, str], list[dict[str, Any]]]]:
    """Asks the missing pairs (task, name), task by task; yields each with its rows."""
    if not pairs:
        return
    base, tasks = group.whole.base, []
    room = config.max_length or base.config.max_position_embeddings
    for name in dict.fromkeys(task for task, _ in pairs):
        leaves = loaded[name]["tasks"]
        ids = {Split.TEST: load.problem_ids(leaves, config.limit)}
        tasks.append(HarnessTask(name, leaves, config, ids, room))
    tokenizer = base.tokenizer.with_arguments(config.chat_template_args)
    loader = engines.make_loader_alone(
        group.whole,
        engine_sizes.check_prompts(tasks, [Split.TEST], tokenizer, config.engine),
        tokenizer=tokenizer,
        run=group.run,
        note=observer.note,
        individuals_per_pass=config.individuals_per_pass,
    )
    for task in tasks:
        asked = {name: group.named[name] for own, name in pairs if own == task.name}
        observer.phase(f"{task.name}: {', '.join(asked)}")
        with LocalEvaluator(loader, tasks=[task]) as asking:
            found = asking.evaluate(asked, Split.TEST, progress=observer.episodes)
        raw = {(who, leaf): defaultdict(list) for who in asked for leaf in task.leaves}
        for episode in found.episodes:
            values = raw[episode.individual, episode.problem.rpartition("/")[0]]
            responses = json.loads(episode.answer)
            for metric, value in task.judge(episode.problem, responses).items():
                values[metric].append(value)
        groups = loaded[task.name]["groups"]
        for who in asked:
            judged = {
                leaf: {"task": one, "raw_metrics": raw[who, leaf], "logged_samples": []}
                for leaf, one in task.leaves.items()
            }
            with load.guarded(task.name):
                results = _process_results(judged, groups, config.bootstrap_iters)
            yield (task.name, who), score_rows(task.name, results._to_eval_results())


def score_rows(name: str, results: Mapping[str, Any]) -> list[dict[str, Any]]:
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
            if not kind or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            error = metrics.get(f"{metric}_stderr,{kind}")
            row = {"task": task, "metric": metric_name(metric, kind)}
            row |= {"value": float(value), "problems": int(metrics["sample_len"])}
            row["stderr"] = float(error) if isinstance(error, Real) else None
            rows.append(row | {"higher_is_better": better.get(metric)})
    # Where a group has no score of its own, its tasks' scores are what was asked for.
    has_own = any(row["task"] == name for row in rows)
    rows = [row | {"is_part": has_own and row["task"] != name} for row in rows]
    return sorted(rows, key=lambda row: row["is_part"])


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The mean over tasks of each one's mean over metrics where more is better."""
    by_task = defaultdict(list)
    for row in rows:
        counts = row["higher_is_better"] is not False and not row["is_part"]
        if row["model"] == name and counts and row["relative"] is not None:
            by_task[row["asked"]].append(row["relative"])
    return fmean(map(fmean, by_task.values())) if by_task else None
