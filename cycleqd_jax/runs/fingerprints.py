"""What decides the result of a run, as hashes: a run is only resumed with the same."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.qd.operators import operator_fingerprint
from cycleqd_jax.runs.folder import RunFolder

# What a resumed run may change: how long, how fast and where, never what is searched.
_FREE_TO_CHANGE = ("num_generations",)


def stored_fingerprints(folder: RunFolder) -> dict[str, Any]:
    """What the run in a folder was begun with.

    Raises:
      BadInputError: its `run.json` is missing or damaged.
    """
    path = folder.path / "run.json"
    try:
        known = dict(files.read_json(path)["fingerprints"])
        if not isinstance(known["base model"], str):
            raise TypeError("base model")
    except (BadInputError, KeyError, TypeError, ValueError) as err:
        raise BadInputError(
            f"run_dir: {path} is damaged, so it is not known what the run was begun "
            "with; bring it back from a copy, or delete it if model, experts, tasks "
            "and settings are surely the same."
        ) from err
    return known


def check_same_inputs(folder: RunFolder, fingerprints: Mapping[str, Any]) -> None:
    """Refuses to go on with a run that was begun with other inputs.

    Raises:
      BadInputError: names the first input that differs.
    """
    path = folder.path / "run.json"
    if not path.is_file():
        return
    known = stored_fingerprints(folder)
    for name, new in fingerprints.items():
        old = known.get(name)
        if old != new:
            which = name
            if isinstance(old, dict) and isinstance(new, dict):
                odd = [key for key in {**old, **new} if old.get(key) != new.get(key)]
                which = f"{name} ({', '.join(odd)})"
            raise BadInputError(
                f"run_dir: the run in {folder.path} was begun with other {which}; "
                "resume it with the same, or start anew with run_dir=FOLDER."
            )


def search_fingerprint(config: RunConfig) -> str:
    """Of the seed, the dtype and the settings of the search."""
    settings = config.qd.model_dump(mode="json", exclude=set(_FREE_TO_CHANGE))
    text = json.dumps({"seed": config.seed, "dtype": config.dtype, "qd": settings},
                      sort_keys=True)  # fmt: skip
    return hashlib.sha256(text.encode()).hexdigest()


def comparison_fingerprint(config: RunConfig) -> str:
    """Of how champions are chosen and what the result is compared with."""
    sections = (config.aggregation, config.baselines)
    text = json.dumps([s.model_dump(mode="json") for s in sections], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def operator_fingerprints(config: RunConfig) -> dict[str, str]:
    """Of operators of one's own, by setting."""
    own = {
        "qd.crossover": config.qd.own_crossover,
        "qd.mutation": config.qd.own_mutation,
    }
    return {
        setting: operator_fingerprint(setting, path)
        for setting, path in own.items()
        if path is not None
    }
