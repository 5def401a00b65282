"""Whether an adapter was trained on the base model that it is now put on.

An adapter names its base, but names are no proof: folders move, and the hub has
mirrors. So it is refused only where both are hub names that differ, or where both are
folders whose weights differ.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.formats import safetensors
from cycleqd_jax.models.locate import is_hub_name

# Rows compared of each weight. Another model differs in all of them; the same one in
# another dtype differs by its rounding.
_ROWS = 16
_ROUNDING = 0.01


def check_named_base(
    settings_path: str | os.PathLike[str],
    source: str,
    weights: Mapping[str, np.ndarray],
) -> None:
    """Refuses an adapter that says it belongs to another base model.

    Args:
      settings_path: its `adapter_config.json`.
      source: the base model's path or hub name, as given.
      weights: the base model's.

    Raises:
      BadInputError: names both bases.
    """
    named = safetensors.read_json(settings_path).get("base_model_name_or_path")
    if not isinstance(named, str) or not named or named == source:
        return
    if is_hub_name(named) and is_hub_name(source):
        if _bare(named) != _bare(source):
            raise BadInputError(
                f"{settings_path}: was trained on the base model {named!r}, but the "
                f"base model here is {source!r}; if these are the same weights, say so "
                "there in base_model_name_or_path"
            )
        return
    here = pathlib.Path(source).expanduser()
    there = pathlib.Path(named).expanduser()
    if not (here.is_dir() and (there / "config.json").is_file()):
        return
    if here.resolve() == there.resolve():
        return
    odd = _first_difference(there, weights)
    if odd is not None:
        raise BadInputError(
            f"{settings_path}: was trained on the base model {named!r}, but the base "
            f"model here is {source!r}, whose {odd} is another"
        )


def _bare(name: str) -> str:
    return name.partition("@")[0].casefold()


def _first_difference(
    folder: pathlib.Path, weights: Mapping[str, np.ndarray]
) -> str | None:
    """The first weight whose first rows differ by more than rounding."""
    for name, rows in _first_rows(folder).items():
        mine = weights.get(name)
        if mine is None:
            if name != "lm_head.weight":
                return name
            continue
        if mine.shape[1:] != rows.shape[1:]:
            return name
        wide = mine[:_ROWS].astype(np.float32)
        gap = np.abs(wide - rows).max(initial=0.0)
        if wide.shape != rows.shape or gap > _ROUNDING * np.abs(wide).max(initial=0.0):
            return name
    return None


def _first_rows(folder: pathlib.Path) -> dict[str, Any]:
    """The first rows of every weight, float32; nothing where they cannot be read."""
    import safetensors

    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
                for name in file.keys():
                    if not name.endswith("rotary_emb.inv_freq"):
                        rows = file.get_slice(name)[:_ROWS]
                        found[name] = np.asarray(rows).astype(np.float32)
        except (safetensors.SafetensorError, OSError, ValueError, TypeError):
            return {}
    return found
