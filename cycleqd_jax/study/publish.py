"""Publishes a comparison: three small files for others to read and check."""

import pathlib
from collections.abc import Mapping
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.study.settings import SUMMARY, Study

_DIGITS = 4  # of scores and p-values


def publish(
    study: Study,
    summary: Mapping[str, Any],
    made: Mapping[str, Any],
    place: pathlib.Path,
) -> None:
    """Writes NAME.json, NAME.md and NAME.png, after the comparison's folder.

    The JSON has what `summary.json` has, without the curves, which are the picture;
    beside it seconds, the config, the machine and the versions of libraries.

    Args:
      study: the finished comparison.
      summary: what `summary.write_summary` returns.
      made: the machine and the versions of libraries.
      place: the folder; made if it is missing.

    Raises:
      RunError: the disk is full or not writable.
    """
    methods = {
        name: _rounded(entry)
        | {"seeds": _rounded({s: one["mean"] for s, one in entry["seeds"].items()})}
        | {"seconds": round(summary["times"][name]["seconds"])}
        for name, entry in summary["methods"].items()
    }
    dropped = ("methods", "times")
    found = {key: summary[key] for key in summary if key not in dropped} | {
        "config": study.config.model_dump(mode="json"),
        "machine": made["machine"],
        "versions": made["versions"],
        "methods": methods,
    }
    place.mkdir(parents=True, exist_ok=True)
    files.write_json(place / f"{study.folder.name}.json", found)
    for source, ending in (("table.md", "md"), ("curves_tokens.png", "png")):
        content = (study.folder / SUMMARY / source).read_bytes()
        files.write_bytes(place / f"{study.folder.name}.{ending}", content)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
