"""The experts of a training config, and which of them are finished or unfinished.

The settings that decide an expert's weights, and fingerprints of its inputs, are stored
with an unfinished training and with the finished expert. They are compared with the
config before anything is trained.
"""

import dataclasses
import enum
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cycleqd_jax import files
from cycleqd_jax.config import load_config, to_yaml
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.training.settings import ExpertsSettings

SETTINGS = "training.yaml"
FINGERPRINTS = "fingerprints.json"
# Settings on which an expert's weights do not depend.
_FREE = ("output", "tasks", "experts", "validate_on", "engine", "sandbox", "logging")
_FREE_PROBLEMS = ("problems.optimise", "problems.validate", "problems.test")
_FREE_OPTIMISER = ("optimiser.checkpoint_every",)
# They decide the history alone, so only an unfinished training keeps to them.
_CURVE = "optimiser.validate_every"
CURVE_DATA = "validation data"


@dataclasses.dataclass(frozen=True)
class ExpertPlan:
    """One expert to train.

    Attributes:
      name: also the name of its folder.
      sources: weight by source; a source is a task's entry in the config or a file.
      number: is folded into the seed of initial values and order of data. It is the
        index in `tasks`, or for `experts` a hash of the name, so that experts can be
        added and reordered.
      folder: of the finished expert.
      work: of an unfinished training.
    """

    name: str
    sources: Mapping[str, float]
    number: int
    folder: pathlib.Path
    work: pathlib.Path


class Status(enum.Enum):
    """The state of one expert's training on disk."""

    NEW = "new"
    UNFINISHED = "unfinished"
    COMPLETE = "complete"


def plan_experts(
    config: ExpertsSettings, task_names: Mapping[str, str]
) -> tuple[ExpertPlan, ...]:
    """The experts of a config, in its order.

    Args:
      config: the settings.
      task_names: name of the task of each entry of the config.
    """
    output = pathlib.Path(config.output)
    if config.tasks:
        wanted = [
            (task_names[entry], {entry: 1.0}, index)
            for index, entry in enumerate(config.tasks)
        ]
    else:
        wanted = [
            (name, sources, zlib.crc32(name.encode()))
            for name, sources in config.experts.items()
        ]
    return tuple(
        ExpertPlan(name, dict(sources), number, output / name,
                   output / f".{name}.training")
        for name, sources, number in wanted
    )  # fmt: skip


def plan_keys(plan: ExpertPlan, seed: int) -> tuple[jax.Array, jax.Array]:
    """The keys of an expert's initial values and of the order of its data."""
    key = jax.random.fold_in(jax.random.key(seed), plan.number)
    init_key, order_key = jax.random.split(key)
    return init_key, order_key


def status_of(
    plan: ExpertPlan, config: ExpertsSettings, fingerprints: Mapping[str, str]
) -> Status:
    """Reads from its folders how far the training of an expert is.

    Args:
      plan: the expert.
      config: the current settings.
      fingerprints: of the current data and base model.

    Raises:
      BadInputError: the folder holds an expert or training with other settings or
        inputs.
    """
    if plan.folder.exists() and not plan.folder.is_dir():
        raise BadInputError(f"output: {plan.folder} is a file; expected a folder.")
    if plan.folder.is_dir() and any(plan.folder.iterdir()):
        if not (plan.folder / SETTINGS).is_file():
            raise BadInputError(
                f"output: {plan.folder} holds other files and no finished expert "
                f"({SETTINGS} is missing); choose another output or remove it."
            )
        difference = _difference(plan.folder, plan, config, fingerprints)
        if difference is not None:
            raise BadInputError(
                f"output: the expert in {plan.folder} was trained with {difference}; "
                "choose another output, or remove that folder to train it again."
            )
        return Status.COMPLETE
    if (plan.work / SETTINGS).is_file():
        difference = _difference(plan.work, plan, config, fingerprints, unfinished=True)
        if difference is not None:
            raise BadInputError(
                f"output: the unfinished training in {plan.work} was started with "
                f"{difference}; set that back, or remove that folder to start again."
            )
        return Status.UNFINISHED
    return Status.NEW


def write_facts(
    folder: pathlib.Path, config: ExpertsSettings, fingerprints: Mapping[str, str]
) -> None:
    """Writes what `status_of` reads; the settings last, as a mark of completeness."""
    files.write_json(folder / FINGERPRINTS, dict(fingerprints))
    files.write_text(folder / SETTINGS, to_yaml(config))


def _deciding_settings(
    config: ExpertsSettings,
    sources: Mapping[str, float],
    number: int,
    *,
    unfinished: bool,
) -> dict[str, Any]:
    """The settings that decide an expert's weights, by their dotted names.

    Those of an unfinished training decide its history too.
    """
    flat: dict[str, Any] = {}
    for key, value in config.model_dump(mode="json").items():
        if isinstance(value, dict) and key not in _FREE:
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    free = {*_FREE, *_FREE_PROBLEMS, *_FREE_OPTIMISER}
    if not unfinished:
        free.add(_CURVE)
    if not config.fresh_factors:
        free |= {key for key in flat if key.startswith("lora.")}
    if all(source not in config.task_sources for source in sources):
        free |= {key for key in flat if key.startswith("problems.")}
    kept = {key: value for key, value in flat.items() if key not in free}
    kept["sources"] = {name: weight for name, weight in sources.items()}
    kept["place among tasks" if config.tasks else "name"] = number
    return kept


def _difference(
    folder: pathlib.Path,
    plan: ExpertPlan,
    config: ExpertsSettings,
    fingerprints: Mapping[str, str],
    *,
    unfinished: bool = False,
) -> str | None:
    """The first difference between the expert in a folder and the plan, in words."""
    old_config = load_config(folder / SETTINGS, [], type(config))
    old = _deciding_settings_in(old_config, plan, unfinished=unfinished)
    if old is None:
        return "other sources"
    new = _deciding_settings(config, plan.sources, plan.number, unfinished=unfinished)
    for key in {**new, **old}:
        if old.get(key) != new.get(key):
            return f"{key} {old.get(key)!r} where it is now {new.get(key)!r}"
    path = folder / FINGERPRINTS
    if path.is_file():
        stored = files.read_json(path)
        for key, value in fingerprints.items():
            kept = unfinished or key != CURVE_DATA
            if kept and stored.get(key) != value:
                return f"another {key}"
    return None


def _deciding_settings_in(
    old: ExpertsSettings, plan: ExpertPlan, *, unfinished: bool
) -> dict[str, Any] | None:
    """The settings of the plan's expert in a config; None if it is not in it."""
    entries: Sequence[str] = list(plan.sources)
    if len(entries) == 1 and entries[0] in old.tasks:
        sources, number = plan.sources, old.tasks.index(entries[0])
    elif plan.name in old.experts:
        sources, number = old.experts[plan.name], plan.number
    else:
        return None
    return _deciding_settings(old, sources, number, unfinished=unfinished)
