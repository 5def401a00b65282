"""What a training config asks for, expert by expert, and how far each has come.

An expert is described by the settings that decide its weights and by fingerprints of
what they are applied to. Both are kept beside a half-done training and beside the
finished expert, and compared with the config before anything is trained.
"""

import dataclasses
import enum
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.config import load_config, to_yaml
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.training.settings import TrainConfig

SETTINGS = "training.yaml"
FINGERPRINTS = "fingerprints.json"
# Where and how an expert is made and scored, which its weights do not depend on.
_FREE = ("output", "tasks", "experts", "validate_on", "engine", "sandbox", "logging")
_FREE_PROBLEMS = ("problems.optimise", "problems.validate", "problems.test")
_FREE_OPTIMISER = ("optimiser.checkpoint_every",)


@dataclasses.dataclass(frozen=True)
class ExpertPlan:
    """One expert to be made.

    Attributes:
      name: also that of its folder.
      sources: weight by source, a task's entry in the config or a file.
      number: what the seed is folded with for its initial values and order of data:
        its place in `tasks`, or a hash of its name in `experts`, so that those may be
        added and reordered.
      folder: the finished expert's.
      work: of a half-done training, beside it.
    """

    name: str
    sources: Mapping[str, float]
    number: int
    folder: pathlib.Path
    work: pathlib.Path


class Status(enum.Enum):
    """How far an expert has come."""

    NEW = "new"
    HALF_DONE = "half done"
    COMPLETE = "complete"


def plan_experts(
    config: TrainConfig, task_names: Mapping[str, str]
) -> tuple[ExpertPlan, ...]:
    """The experts of a config, in its order.

    Args:
      config: the settings.
      task_names: the name of the task behind each entry of the config.
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


def status_of(
    plan: ExpertPlan, config: TrainConfig, fingerprints: Mapping[str, str]
) -> Status:
    """How far an expert has come.

    Args:
      plan: the expert.
      config: the settings now.
      fingerprints: of its data and base model now.

    Raises:
      BadInputError: what is there was made with other settings or from other inputs.
    """
    if plan.folder.exists() and not plan.folder.is_dir():
        raise BadInputError(f"output: {plan.folder} is a file; expected a folder.")
    if plan.folder.is_dir() and any(plan.folder.iterdir()):
        if not (plan.folder / SETTINGS).is_file():
            raise BadInputError(
                f"output: {plan.folder} holds something that is no finished expert "
                f"({SETTINGS} is missing); choose another output or remove it."
            )
        odd = _difference(plan.folder, plan, config, fingerprints)
        if odd is not None:
            raise BadInputError(
                f"output: the expert in {plan.folder} was trained with {odd}; choose "
                "another output, or remove that folder to train it again."
            )
        return Status.COMPLETE
    if (plan.work / SETTINGS).is_file():
        odd = _difference(plan.work, plan, config, fingerprints)
        if odd is not None:
            raise BadInputError(
                f"output: the half-done training in {plan.work} was begun with {odd}; "
                "set that back, or remove that folder to begin again."
            )
        return Status.HALF_DONE
    return Status.NEW


def write_facts(
    folder: pathlib.Path, config: TrainConfig, fingerprints: Mapping[str, str]
) -> None:
    """Writes what `status_of` compares with; the settings last."""
    files.write_json(folder / FINGERPRINTS, dict(fingerprints))
    files.write_text(folder / SETTINGS, to_yaml(config))


def described(
    config: TrainConfig, sources: Mapping[str, float], number: int
) -> dict[str, Any]:
    """The settings that decide an expert's weights, by their names in a config."""
    flat: dict[str, Any] = {}
    for key, value in config.model_dump(mode="json").items():
        if isinstance(value, dict) and key not in _FREE:
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    free = {*_FREE, *_FREE_PROBLEMS, *_FREE_OPTIMISER}
    if config.method != "lora":
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
    config: TrainConfig,
    fingerprints: Mapping[str, str],
) -> str | None:
    """The first thing in which a folder's expert differs from the plan, in words."""
    old_config = load_config(folder / SETTINGS, [], TrainConfig)
    old = _described_in(old_config, plan)
    if old is None:
        return "other sources"
    new = described(config, plan.sources, plan.number)
    for key in {**new, **old}:
        if old.get(key) != new.get(key):
            return f"{key} {old.get(key)!r} where it is now {new.get(key)!r}"
    path = folder / FINGERPRINTS
    if path.is_file():
        stored = files.read_json(path)
        for key, value in fingerprints.items():
            if stored.get(key) != value:
                return f"another {key}"
    return None


def _described_in(old: TrainConfig, plan: ExpertPlan) -> dict[str, Any] | None:
    """The description of the plan's expert in a config; None if it is not in it."""
    entries: Sequence[str] = list(plan.sources)
    if len(entries) == 1 and entries[0] in old.tasks:
        return described(old, plan.sources, old.tasks.index(entries[0]))
    if plan.name in old.experts:
        return described(old, old.experts[plan.name], plan.number)
    return None
