"""Merges of segmentation experts, two by two and all together: the paper's Table 4.

Every pair of a run's experts is a run of its own, by the same loop, and so are all of
them together. Beside each is a run of one closed form, the sum of the conditioned task
vectors. The result says which share of each expert's own score a merged model keeps.

Source: CycleQD (arXiv 2410.14735), section 4.3 and Table 4.
"""

import itertools
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import pydantic
from pydantic import Field

from cycleqd_jax.config import RunConfig, with_preset
from cycleqd_jax.errors import BadInputError, explain
from cycleqd_jax.files import PathText, Section, Text
from cycleqd_jax.files.overrides import laid_over, nested
from cycleqd_jax.files.yaml import read_mapping
from cycleqd_jax.progress import Observer
from cycleqd_jax.reports import build
from cycleqd_jax.runs import run
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.kinds import IMAGES, kind_of

ALL, CONDITIONED, SUMMARY = "all", "conditioned", "summary"
_LEAST = 2  # test images of a data set, so that there is an interval
_FACTORS = (0.6, 0.8, 1.0)  # of the conditioned sum; the best on `optimise` counts
_CLOSED_FORM = {
    "basis": {"conditioning": "data_free"},
    "search": "merge",
    "search_settings": {"method": "sum", "factors": list(_FACTORS)},
    "qd": {"num_generations": len(_FACTORS), "children_per_batch": len(_FACTORS)},
    "baselines": {"scaled_merge_factors": [1.0]},
}


class SegmentationConfig(Section):
    """Merges of all pairs of experts.

    Attributes:
      base: config of a run of all experts, as `experiments.agent_skills` takes it.
      settings: overrides of it, for all runs.
      pairs: overrides for the runs of two experts.
      folder: of the runs; runs/<name of the config file> by default.
      resamples: of the test images, behind intervals.
    """

    base: PathText
    settings: Mapping[Text, Any] = Field(default_factory=dict)
    pairs: Mapping[Text, Any] = Field(default_factory=dict)
    folder: PathText | None = None
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000


class Group(NamedTuple):
    """Experts that are merged.

    Attributes:
      name: of its folder.
      search: the run of the search.
      closed_form: the run of the conditioned sum.
    """

    name: str
    search: RunConfig
    closed_form: RunConfig


def make_groups(config: SegmentationConfig, name: str) -> tuple[Group, ...]:
    """All pairs in the order of tasks, then all experts together.

    Args:
      config: the settings.
      name: of the config file without its ending.

    Raises:
      BadInputError: a file is missing, a setting is wrong, a task has no expert, or the
        tasks are not of images.
    """
    data = with_preset(read_mapping(config.base), config.base)
    data = laid_over(data, nested(config.settings, "settings"))
    whole = _parse(config.base, data)
    if kind_of(whole) != IMAGES:
        raise BadInputError(
            f"base: the tasks of {config.base} are {', '.join(whole.tasks)}; expected "
            "data sets of images, like pocket_polyps."
        )
    if set(whole.experts) != set(whole.tasks) or "none" in whole.experts.values():
        raise BadInputError(
            f"base: {config.base} has experts for {', '.join(whole.experts)}; expected "
            f"one for each of the tasks {', '.join(whole.tasks)}, and no others."
        )
    if whole.problems.test < _LEAST:
        raise BadInputError(
            f"base: problems.test is {whole.problems.test}, but merges are compared on "
            f"test images; expected at least {_LEAST} of each data set."
        )
    folder = pathlib.Path(config.folder or f"runs/{name}")
    two = laid_over(data, nested(config.pairs, "pairs"))
    chosen = [(pair, two) for pair in itertools.combinations(whole.tasks, 2)]
    if len(whole.tasks) > 2:
        chosen.append((whole.tasks, data))
    return tuple(_group(folder, tasks, own, whole.tasks) for tasks, own in chosen)


def _group(
    folder: pathlib.Path,
    tasks: tuple[str, ...],
    data: Mapping[str, Any],
    every: tuple[str, ...],
) -> Group:
    short = [task.rpartition(":")[2].removeprefix("pocket_") for task in tasks]
    name = ALL if tasks == every and len(tasks) > 2 else "+".join(short)
    own = dict(data) | {"tasks": list(tasks)}
    for key in ("experts", "task_settings"):
        own[key] = {
            task: v for task, v in (data.get(key) or {}).items() if task in tasks
        }
    place = folder / name

    def of(part: str, more: Mapping[str, Any]) -> RunConfig:
        return _parse(name, laid_over(own, more) | {"run_dir": str(place / part)})

    closed = {key: dict(v) if isinstance(v, dict) else v
              for key, v in _CLOSED_FORM.items()}  # fmt: skip
    return Group(name, of("search", {}), of(CONDITIONED, closed))


def carry_out(groups: tuple[Group, ...], observer: Observer) -> None:
    """Runs what is not finished yet, each in a folder of its own.

    Raises:
      BadInputError: an input of a run is wrong.
      RunError: a run cannot go on; it can be resumed.
    """
    for number, group in enumerate(groups, 1):
        for config in (group.search, group.closed_form):
            with RunFolder(config.run_dir, resume=True) as folder:
                run.check_generations(config, folder)
                if run.is_done(config, folder, observer):
                    continue
                observer.note(f"{number} of {len(groups)}: {config.run_dir}")
                run.evolve(config, folder, observer)
                observer.phase("writing the report")
                build.write_report(folder.path)


def _parse(where: str, data: Mapping[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(data)
    except pydantic.ValidationError as err:
        raise BadInputError(f"{where}: {explain(err, data, RunConfig)[1]}") from err
