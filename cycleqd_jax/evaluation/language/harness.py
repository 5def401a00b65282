"""Tasks of lm-evaluation-harness (EleutherAI/lm-evaluation-harness) on our engine.

Data, few-shot examples, prompts, filters, metrics and their aggregation are the
harness's own; only the model is ours. Needs the extra `language`.
"""

import contextlib
import difflib
import importlib.metadata
import io
import numbers
import random
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from lm_eval import evaluator
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from cycleqd_jax.errors import BadInputError, CycleQDError, MissingDataError, RunError
from cycleqd_jax.evaluation.language.lm import EngineLM
from cycleqd_jax.evaluation.language.settings import HarnessSettings

VERSION = importlib.metadata.version("lm_eval")


def find_tasks(names: Sequence[str], include: Sequence[str]) -> TaskManager:
    """Finds task files; their data are not loaded yet.

    Args:
      names: of tasks, groups or tags.
      include: folders with user-defined tasks.

    Returns:
      The tasks of `include` where they suffice, else those and the harness's.

    Raises:
      BadInputError: a name is unknown.
    """
    for defaults in (False, True):  # finding the harness's own tasks takes seconds
        with _quiet():
            found = TaskManager(include_path=list(include), include_defaults=defaults)
        index = found.task_index
        unknown = [name for name in names if name not in index]
        # A user-defined group may contain tasks of the harness.
        members = (m for group in found.all_groups for m in index[group].cfg["task"])
        here = defaults or all(isinstance(m, str) and m in index for m in members)
        if here and not unknown:
            return found
    near = difflib.get_close_matches(unknown[0], found.all_tasks, n=3)
    meant = f"did you mean {', '.join(near)}? " if near else ""
    raise BadInputError(
        f"tasks: lm-evaluation-harness {VERSION} has no task, group or tag "
        f"{unknown[0]!r}; {meant}list them with: python -m lm_eval ls tasks"
    )


def load_task(
    name: str, manager: TaskManager, settings: HarnessSettings
) -> dict[str, Any]:
    """A task, or the tasks of a group or tag, with their data.

    Raises:
      BadInputError: it cannot be loaded, for example without a network, or runs
        code without permission.
    """
    try:
        with _quiet():
            loaded = manager.load([name])
    except Exception as err:  # the hub's, the harness's, a task's own: any kind
        raise _load_error(name, err) from err
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False) and not settings.unsafe_code:
            raise BadInputError(
                f"tasks: {task.task_name} runs what the model wrote, outside of any "
                "sandbox; leave it out, or allow it with unsafe_code=true in a "
                "container of its own."
            )
    return loaded


def run_task(
    name: str, loaded: dict[str, Any], lm: EngineLM, settings: HarnessSettings
) -> list[dict[str, Any]]:
    """The scores of one individual, see `score_rows`.

    Args:
      name: what was asked for.
      loaded: from `load_task`.
      lm: the individual.
      settings: how tasks are put.

    Raises:
      BadInputError: a task asks for something that the engine does not do.
      RunError: a task's own code fails.
    """
    # What `simple_evaluate` does; that also collects facts of the machine, for seconds.
    # The seeds make every individual's questions the same, so that they can be shared.
    random.seed(0)
    np.random.seed(settings.seed)
    for task in loaded["tasks"].values():
        examples = task.get_config("num_fewshot")
        if settings.num_fewshot is not None and examples != 0:
            examples = settings.num_fewshot
        task.set_config(key="num_fewshot", value=examples or 0)
        task.set_fewshot_seed(seed=settings.seed)
    try:
        with _quiet():
            results = evaluator.evaluate(
                lm,
                loaded,
                limit=settings.limit,
                bootstrap_iters=settings.bootstrap_iters,
                log_samples=False,
                system_instruction=settings.system_instruction,
                apply_chat_template=settings.apply_chat_template,
                fewshot_as_multiturn=settings.fewshot_as_multiturn,
                confirm_run_unsafe_code=settings.unsafe_code,
            )
    except (CycleQDError, jax.errors.JaxRuntimeError, MemoryError):
        raise
    except Exception as err:  # a task's own code may raise any kind
        raise RunError(
            f"tasks: {name} fails in lm-evaluation-harness {VERSION} ({_reason(err)})."
        ) from err
    return score_rows(name, results)


def score_rows(name: str, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics of what was asked for, then those of the tasks inside a group.

    Args:
      name: of the task, group or tag that was asked for.
      results: of `lm_eval.evaluator.evaluate`.

    Returns:
      Rows with `task`, `metric` ("exact_match[strict]" where the task has filters),
      `value`, `stderr` or None, `higher_is_better` or None, `problems` (their number)
      and `is_part`, whether it is of a task inside the group that was asked for.
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
            row = {"task": task, "metric": metric, "value": float(value)}
            row["metric"] += "" if kind == "none" else f"[{kind}]"
            row["stderr"] = float(error) if _is_number(error) else None
            row["higher_is_better"] = better.get(metric)
            row["problems"] = int(metrics.get("sample_len", 0))
            rows.append(row | {"is_part": has_own and task != name})
    return sorted(rows, key=lambda row: row["is_part"])


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back the harness's bars, prints and warnings."""
    nowhere = io.StringIO()
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(action="ignore"),
    ):
        yield


def _load_error(name: str, err: Exception) -> BadInputError:
    """One sentence about an exception while a task was loaded."""
    frames = traceback.walk_tb(err.__traceback__)
    owners = [frame.f_locals.get("self") for frame, _ in frames]
    tasks = [owner for owner in owners if isinstance(owner, Task)]
    if not tasks or not tasks[-1].DATASET_PATH:
        return BadInputError(f"tasks: {name} cannot be loaded ({_reason(err)}).")
    data = {"path": tasks[-1].DATASET_PATH, "name": tasks[-1].DATASET_NAME}
    data |= tasks[-1].config.dataset_kwargs or {}
    arguments = ", ".join(f"{key}={value!r}" for key, value in data.items() if value)
    return MissingDataError(
        f"tasks: the data of {name} cannot be loaded ({_reason(err)}); where there is "
        'a network, type: python -c "import datasets; '
        f'datasets.load_dataset({arguments})", and bring the folder that HF_HOME '
        "names (~/.cache/huggingface) here."
    )


def _reason(err: Exception) -> str:
    return f"{type(err).__name__}: {' '.join(str(err).split())}"[:300]
