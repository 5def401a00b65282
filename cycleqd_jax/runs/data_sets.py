"""Data sets of the hub in a run: which commit it was begun with, so that it stays."""

import pathlib
from collections.abc import Mapping
from typing import Any

import pydantic

from cycleqd_jax.config import RunConfig, load_config
from cycleqd_jax.errors import BadInputError, MissingDataError
from cycleqd_jax.runs import sums
from cycleqd_jax.tasks.own.hub import HubData


def with_commits(
    config: RunConfig, run: pathlib.Path, *, download: bool = True
) -> RunConfig:
    """The settings, with a commit for every data set of the hub.

    A branch, a tag or no revision stands for the commit that the run in a folder was
    begun with; where there is none yet, for the one that it names now. Data sets that
    are not here and cannot be downloaded stay as they are: their tasks say so.

    Args:
      config: the settings.
      run: the run folder.
      download: whether the hub may be asked.

    Raises:
      BadInputError: the hub has no such data set or revision, or `config.yaml` of the
        run is damaged.
    """
    sections = {name: dict(own) for name, own in config.task_settings.items()}
    asked = {name: data for name, own in sections.items() if (data := _hub(own))}
    if all(data.is_pinned for data in asked.values()):
        return config
    kept: Mapping[str, Mapping[str, Any]] = {}
    if (run / "config.yaml").is_file():
        before = sums.intact(run / "config.yaml")
        kept = load_config(before, [], RunConfig).task_settings
    for name, data in asked.items():
        old = _hub(kept.get(name, {}))
        if data.is_pinned:
            continue
        if old is not None and old.name == data.name and old.is_pinned:
            data = data.model_copy(update={"revision": old.revision})
        else:
            try:
                data = data.fetched(download)[0]
            except MissingDataError:
                continue
            except BadInputError as err:
                raise BadInputError(f"task_settings.{name}.{err}") from err
        sections[name]["hub"] = data.model_dump(exclude_none=True)
    return config.model_copy(update={"task_settings": sections})


def _hub(options: Mapping[str, Any]) -> HubData | None:
    """The data set of a task; None where it has none, or a wrong one."""
    given = options.get("hub")
    try:
        given = {"name": given} if isinstance(given, str) else given
        return None if given is None else HubData.model_validate(given)
    except pydantic.ValidationError:
        return None  # the task says what is wrong
