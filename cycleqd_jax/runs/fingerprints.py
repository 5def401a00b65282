"""Hashes of everything that decides a run's result; only the same is resumed.

`run.json` keeps it under `fingerprints`:

  settings       dotted name -> value, for every setting that is not in `FREE`
  tokeniser      hash of the vocabulary and the chat template
  base model     hash of weights, settings and tokeniser
  experts        task -> hash of its expert
  tasks          task -> its own fingerprint: problems, prompts and options
  code           owner, like "task pocket_db" -> file or module -> hash of its source
  basis          hash of everything that the basis is computed from
  evaluation     dotted name -> value, for what is chosen after the basis is computed
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError, show
from cycleqd_jax.qd.operators import operator_fingerprint
from cycleqd_jax.runs.source_hashes import own_modules, shared_judges, task_judges
from cycleqd_jax.search.registry import search_class
from cycleqd_jax.tasks.base import Task

# Settings and sections that a resumed run may change. All others are compared, so a
# new one is compared unless it is named here.
FREE = (
    "qd.num_generations",
    # Places; the contents are hashed.
    "run_dir",
    "mirror",
    "base_model",
    "experts",
    "logging",
    "basis.keep",
    "basis.host_below",  # compared as part of the basis
    # Speed.
    "sandbox.workers",
    "sandbox.memoise",
    "engine.slots",
    "engine.prefill_rows",
    "engine.prefill_chunk",
    "engine.decode_steps",
    "engine.attention",
    "engine.mesh",
    "evaluator",
    "ray",
    "distributed",
    # Compared in another form: the number, the chosen mode, the tasks' own options, the
    # base model with the tokens that it got.
    "vocabulary",
    "engine.length",
    "engine.mode",
    "task_settings",
    # Measured after the search, under names that have the tasks' hashes or the number
    # in them.
    "out_of_domain",
    "population",
)
# Sections that only runs of one kind of model read.
OF_LANGUAGE = ("engine", "sandbox", "date")
OF_SEGMENTATION = ("images",)
_VALUES = ("settings", "evaluation")  # these hold values, the others hold hashes
_SHOWN = 3  # differences that a message names
_UNSET = object()


def stored_fingerprints(path: pathlib.Path) -> dict[str, Any]:
    """The fingerprints that the run in a folder was begun with.

    Args:
      path: of the run folder.

    Raises:
      BadInputError: its `run.json` is missing or damaged.
    """
    facts = path / "run.json"
    try:
        known = dict(files.read_sealed(facts)["fingerprints"])
        if not isinstance(known["base model"], str):
            raise TypeError("base model")
    except (BadInputError, KeyError, TypeError, ValueError) as err:
        raise BadInputError(
            f"run_dir: {facts} is damaged, so it is not known what the run was begun "
            "with; bring it back from a copy, or delete it if model, experts, tasks "
            "and settings are surely the same."
        ) from err
    return known


def check_same_inputs(
    path: pathlib.Path,
    fingerprints: Mapping[str, Any],
    costly: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Refuses to resume a run that was begun with other inputs.

    Args:
      path: of the run folder; one without `run.json` has no run yet.
      fingerprints: of this process; only those that are given are compared.
      costly: returns more of them; called only where there is a run.

    Raises:
      BadInputError: names what differs.
    """
    if not (path / "run.json").is_file():
        return
    known = stored_fingerprints(path)
    for name, new in {**fingerprints, **costly()}.items():
        old = known.get(name)
        if type(old) is not type(new):
            raise BadInputError(
                f"run_dir: the run in {path} was begun with another version, which "
                f"kept no {name}; start anew with run_dir=FOLDER."
            )
        if old != new:
            same = (
                "; or, if it gives what it gave so far, delete run.json in that folder"
            )
            raise BadInputError(
                f"run_dir: the run in {path} was begun with other "
                f"{difference(name, old, new)}; resume it with the same, or start "
                f"anew with run_dir=FOLDER{same if name == 'code' else ''}."
            )


def compared_settings(
    config: RunConfig, length: int, tasks: Sequence[Task]
) -> dict[str, Any]:
    """Dotted name -> value, for the settings that must stay when a run is resumed.

    Args:
      config: the settings.
      length: `engine.length` as a number; 0 for a run of segmentation models.
      tasks: in the order of the config. The result has their options, as they were
        given or with defaults, without those in `free_options` of the task.
    """
    dumped = config.model_dump(mode="json")
    other = OF_SEGMENTATION if length else (*OF_LANGUAGE, "images.mode")
    free = tuple(f"{name}." for name in (*FREE, *other))
    settings = {
        name: value
        for name, value in _flat(dumped).items()
        if not f"{name}.".startswith(free)
    }
    for entry, task in zip(config.tasks, tasks, strict=True):
        options = getattr(task, "options", None)
        if isinstance(options, files.Section):
            options = options.model_dump(mode="json")
        else:
            options = dict(dumped["task_settings"].get(entry, {}))
        for name in getattr(task, "free_options", ()):
            options.pop(name, None)
        settings |= _flat({"task_settings": {entry: options}})
    return settings | ({"engine.length": length} if length else {})


def code_hashes(config: RunConfig, tasks: Sequence[Task]) -> dict[str, dict[str, str]]:
    """Owner of the code -> file or module -> hash.

    Args:
      config: names the search and the operators; only users' own are hashed.
      tasks: all are hashed.

    Raises:
      BadInputError: a source cannot be read.
    """
    code = {
        f"task {task.name}": task_judges(type(task))
        | task_judges(getattr(task, "examples_from", type(task)))
        for task in tasks
    }
    code["all tasks"] = shared_judges()
    code["search"] = own_modules(search_class(config.search))
    own = {
        "qd.crossover": config.qd.custom_crossover,
        "qd.mutation": config.qd.custom_mutation,
    }
    for setting, path in own.items():
        if path is not None:
            code[setting] = {path: operator_fingerprint(setting, path)}
    return code


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value; lists are values, empty sections disappear."""
    flat = {}
    for name, value in section.items():
        inner = isinstance(value, Mapping)
        key = f"{prefix}{name}"
        flat |= _flat(value, f"{key}.") if inner else {key: value}
    return flat


def difference(name: str, old: Any, new: Any) -> str:
    """Says what differs between two unequal fingerprints of one type."""
    if not isinstance(old, dict):
        return name  # a hash: there is nothing to show
    odd = _unequal(old, new)
    if name in _VALUES:
        texts = [f"{k} was {_shown(old, k)}, now is {_shown(new, k)}" for k in odd]
        return f"{name}: {_few(texts, '; ')}"
    if name == "code":
        whose = {k: _unequal(old.get(k, {}), new.get(k, {})) for k in odd}
        texts = [f"{k} ({_few(changed)})" for k, changed in whose.items()]
        return f"code of {_few(texts)}"
    return f"{name} ({_few(odd)})"


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = {**new, **old}
    return [n for n in names if old.get(n, _UNSET) != new.get(n, _UNSET)]


def _shown(values: Mapping[str, Any], key: str) -> str:
    return show(values[key]) if key in values else "not set"


def _few(texts: Sequence[str], separator: str = ", ") -> str:
    more = len(texts) - _SHOWN
    return separator.join(texts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
