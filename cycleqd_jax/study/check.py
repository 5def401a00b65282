"""Checks a whole comparison before anything is computed."""

from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.files import shipped
from cycleqd_jax.models.expert_folders import open_expert
from cycleqd_jax.models.locate import find_download, is_hub_name
from cycleqd_jax.runs import run
from cycleqd_jax.runs.conditioning import check_gram_memory
from cycleqd_jax.runs.data_sets import with_commits
from cycleqd_jax.runs.kinds import IMAGES, kind_of
from cycleqd_jax.runs.memory import this_machine
from cycleqd_jax.runs.plan import find_inputs
from cycleqd_jax.runs.search import make_search
from cycleqd_jax.runs.tasks import check_splits, find_tasks
from cycleqd_jax.runs.trackers import check_trackers
from cycleqd_jax.study.settings import AdapterMethod, Method, Study
from cycleqd_jax.tasks.base import Split, Task
from cycleqd_jax.tasks.segmentation.task import ImageTask

NAME = "study.json"
_NO_MATTER = ("seed", "run_dir", "logging")
_LEAST = 2  # problems of a task, so that there is an error


def keep_commits(study: Study, *, download: bool = True) -> Study:
    """The comparison with one commit for every data set of the hub, in all its runs.

    Args:
      study: the comparison.
      download: whether the hub may be asked.

    Returns:
      The same with the commits of the first run that was begun, else the present ones.

    Raises:
      BadInputError: as for `with_commits`.
    """
    runs = [study.folder / name / f"seed-{seed}" for name, seed in study.cells()]
    begun = next((run for run in runs if (run / "config.yaml").is_file()), runs[0])
    pinned = {
        name: with_commits(config, begun, download=download)
        for name, config in study.searches.items()
    }
    return study._replace(methods={**study.methods, **pinned})


def check_study(study: Study) -> tuple[Task, ...]:
    """Checks the inputs of every method, as far as they are on this machine.

    Weights are not read. Most checks are those of a run's dry run, and each run makes
    the rest when its turn comes.

    Returns:
      The tasks, with their problems.

    Raises:
      BadInputError: a method would be refused, methods have other `test` problems, or
        the comparison in the folder is another one.
    """
    if study.config.population and kind_of(study.reference) == IMAGES:
        raise BadInputError(
            f"population is {study.config.population}, but models of images draw no "
            "samples; set it to 0."
        )
    tasks, problems = _check_run(study.config.reference, study.reference)
    for name, config in study.searches.items():
        if config.evaluator != "local":
            raise BadInputError(
                f"methods.{name}: evaluator is {config.evaluator}, but a comparison "
                "evaluates on this machine; set it to local."
            )
        if name == study.config.reference:
            continue
        _, own = _check_run(name, config)
        if own != problems:
            raise BadInputError(
                f"methods.{name}: its test problems are others than those of "
                f"{study.config.reference}, so they cannot be compared; give both the "
                "same tasks and problems."
            )
    for name, method in study.methods.items():
        if isinstance(method, AdapterMethod):
            _check_adapter(name, method, study.reference)
    _check_same(study, problems)
    return tasks


def write_study(study: Study, tasks: tuple[Task, ...]) -> None:
    """Writes what is compared into the folder; what is there is the same."""
    path = study.folder / NAME
    if not path.exists():
        files.write_sealed(path, _facts(study, _problems(tasks)))


def _check_run(name: str, config: RunConfig) -> tuple[tuple[Task, ...], dict[str, str]]:
    try:
        check_trackers(config.logging)
        kind = run.open_kind(config)
        tasks, missing = find_tasks(config)
        if missing:
            raise BadInputError(missing[0])
        check_splits(config, tasks)
        inputs, machine = find_inputs(config), this_machine()
        basis = inputs.basis(config)
        make_search(config, basis, [task.name for task in tasks], tasks)
        kind.plan_memory(inputs.model, basis, machine).check(machine)
        check_gram_memory(config, inputs.model, machine)
        kind.check()
    except BadInputError as err:
        raise BadInputError(f"methods.{name}: {err}") from err
    for task in tasks:
        if (count := len(task.problems(Split.TEST))) < _LEAST:
            raise BadInputError(
                f"methods.{name}: {task.name} has {count} test problems, but methods "
                f"are compared on at least {_LEAST}; set problems.test higher."
            )
    return tasks, _problems(tasks)


def _problems(tasks: Sequence[Task]) -> dict[str, str]:
    """Task -> hash of its test problems."""
    found = {}
    for task in tasks:
        texts = [(p.id, p.prompt, p.answer) for p in task.problems(Split.TEST)]
        if isinstance(task, ImageTask):  # names of images do not tell what they show
            texts = [
                (p.id, p.prompt, task.fingerprint) for p in task.problems(Split.TEST)
            ]
        found[task.name] = files.digest_of(files.json_text(texts).encode())
    return found


def _check_adapter(name: str, method: AdapterMethod, config: RunConfig) -> None:
    is_hub = is_hub_name(method.adapter)
    folder = find_download(method.adapter) if is_hub else shipped.find(method.adapter)
    if is_hub and folder is None:
        return  # it is downloaded when its turn comes
    try:
        open_expert(folder, find_inputs(config).base)
    except BadInputError as err:
        raise BadInputError(f"methods.{name}: {err}") from err


def method_facts(study: Study, name: str, tasks: Sequence[Task]) -> dict[str, Any]:
    """The settings of a method and the problems that decide its results."""
    method, config = study.methods[name], study.config
    found = {
        "method": plain_settings(method),
        "problems": _problems(tasks),
        "budget": config.budget,
        "population": [config.population, config.temperature],
    }
    if not isinstance(method, RunConfig):
        found["run"] = plain_settings(study.methods[study.run_of(name)])
    return found


def plain_settings(method: Method) -> dict[str, Any]:
    """The settings of a method that decide its results, ready for JSON."""
    found = method.model_dump(mode="json")
    return {key: found[key] for key in found if key not in _NO_MATTER}


def _facts(study: Study, problems: Mapping[str, str]) -> dict[str, Any]:
    return {
        "reference": study.config.reference,
        "seeds": list(study.config.seeds),
        "budget": study.config.budget,
        "methods": {
            name: plain_settings(method) for name, method in study.methods.items()
        },
        "problems": dict(problems),
    }


def _check_same(study: Study, problems: Mapping[str, str]) -> None:
    """Refuses to go on with a comparison of other methods, seeds or problems."""
    path = study.folder / NAME
    if not path.exists():
        return
    old, new = files.read_sealed(path), _facts(study, problems)
    for key in ("reference", "seeds", "budget", "methods", "problems"):
        if difference := _difference(key, old.get(key), new[key]):
            raise BadInputError(
                f"folder: the comparison in {study.folder} was begun with other "
                f"{key}: {difference}; go on with the same, or choose another with "
                "folder=FOLDER."
            )


def _difference(key: str, old: Any, new: Any) -> str | None:
    """The first difference between two values of settings, in words."""
    if old == new:
        return None
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if key in ("methods", "problems") and set(old) != set(new):
            return f"they were of {', '.join(old)}, now are of {', '.join(new)}"
        for name in (*new, *old):
            if found := _difference(f"{key}.{name}", old.get(name), new.get(name)):
                return found
    if key.startswith("problems."):
        return f"those of {key.removeprefix('problems.')} have changed"
    return f"{key} was {show(old)}, now is {show(new)}"
