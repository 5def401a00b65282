"""Records of finished runs: small files with which machines share a comparison.

A record holds what a comparison reads from one run: scores on `test`, costs, curve. So
seeds can run on several machines, or on one that keeps nothing but a folder.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.study.check import method_facts, plain_settings
from cycleqd_jax.study.results import Point, Result, read_result
from cycleqd_jax.study.settings import AdapterMethod, ModelMethod, Study
from cycleqd_jax.tasks.base import Split, Task

_ONCE = "once"  # in place of a seed, of a method that has none


class Records:
    """The records of one comparison in a folder.

    Attributes:
      folder: with a file METHOD-seed-N.json per run; None keeps none.
    """

    def __init__(
        self, study: Study, tasks: Sequence[Task], folder: pathlib.Path | None
    ):
        """Reads nothing yet.

        Args:
          study: the comparison.
          tasks: with their problems.
          folder: made with the first record.
        """
        self.folder, self._study = folder, study
        self._order = {
            task.name: [p.id for p in task.problems(Split.TEST)] for task in tasks
        }
        self._facts: Callable[[str], dict[str, Any]] = lambda name: method_facts(
            study, name, tasks
        )

    def covers(self, name: str, seed: int) -> bool:
        """True if a run need not be made: all that is read from it is on record."""
        return all(
            self.find(n, seed) is not None for n in (name, *self._models_of(name))
        )

    def find(self, name: str, seed: int) -> Result | None:
        """The recorded result of a method for a seed; None if there is none.

        Raises:
          BadInputError: the record is damaged, or is of other settings or problems.
        """
        path = self._path(name, seed)
        if path is None or not path.exists():
            return None
        data, wanted = files.read_sealed(path), self._facts(name)
        if _with_defaults(data.get("of")) != _as_json(wanted):
            raise BadInputError(
                f"{path}: is a record of other settings or test problems of {name} "
                "than the config's; give another folder for records, or remove it."
            )
        try:
            return self._result(data)
        except (KeyError, TypeError, ValueError) as err:
            raise BadInputError(
                f"{path}: is no record of a run; remove it, and the run is made again."
            ) from err

    def keep(self, name: str, seed: int) -> None:
        """Records a finished run, and the models that are read from it.

        Raises:
          BadInputError: the run is damaged.
          RunError: the disk is full or not writable.
        """
        if self.folder is None:
            return
        for one in (name, *self._models_of(name)):
            if self.find(one, seed) is None:
                self._write(one, seed, read_result(self._study, one, seed))

    def results(self) -> dict[str, dict[int, Result]]:
        """All results by method and seed, from records or else from run folders.

        Raises:
          BadInputError: a run is not finished or damaged, or runs of a method had other
            models.
        """
        found: dict[str, dict[int, Result]] = {}
        for name in self._study.methods:
            found[name] = {
                seed: self.find(name, seed) or read_result(self._study, name, seed)
                for seed in self._study.config.seeds
            }
            models = {r.models for r in found[name].values()}
            if len(models) > 1:
                raise BadInputError(
                    f"methods.{name}: its runs had different models or experts "
                    f"({', '.join(sorted(m[:8] for m in models))}), so their seeds "
                    "cannot be compared; remove the records of one."
                )
        return found

    def _models_of(self, name: str) -> list[str]:
        return [
            label
            for label, method in self._study.methods.items()
            if isinstance(method, ModelMethod) and self._study.run_of(label) == name
        ]

    def _path(self, name: str, seed: int) -> pathlib.Path | None:
        if self.folder is None:
            return None
        return self.folder / f"{name}-{self._label(name, seed)}.json"

    def _label(self, name: str, seed: int) -> str:
        if isinstance(self._study.methods[name], AdapterMethod):
            return _ONCE
        is_seeded = self._study.is_seeded(self._study.run_of(name))
        return f"seed-{seed}" if is_seeded else _ONCE

    def _write(self, name: str, seed: int, result: Result) -> None:
        data = result._asdict() | {
            "of": self._facts(name),
            "scores": {
                task: [_plain(result.scores[task][p]) for p in ids]
                for task, ids in self._order.items()
            },
            "curve": [list(point) for point in result.curve],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_sealed(self._path(name, seed), data)

    def _result(self, data: Mapping[str, Any]) -> Result:
        scores = {
            task: dict(zip(ids, map(float, data["scores"][task]), strict=True))
            for task, ids in self._order.items()
        }
        pair = data["coverage"]
        own = {key: data[key] for key in Result._fields} | {
            "scores": scores,
            "curve": tuple(Point(*point) for point in data["curve"]),
            "batch_seconds": tuple(data["batch_seconds"]),
            "coverage": None if pair is None else tuple(pair),
        }
        return Result(**own)


def _as_json(facts: Mapping[str, Any]) -> Any:
    return files.parse_json(files.json_text(facts).encode())


def _with_defaults(facts: Any) -> Any:
    """Recorded facts, where a setting that came later has its default."""
    if not isinstance(facts, Mapping):
        return None
    found = dict(facts)
    for key in ("method", "run"):
        for kind in (RunConfig, AdapterMethod, ModelMethod):
            try:
                found[key] = plain_settings(kind.model_validate(facts.get(key)))
            except pydantic.ValidationError:
                continue
            break
    return _as_json(found)


def _plain(score: float) -> float | int:
    """The same number in fewer characters."""
    return int(score) if score == int(score) else score
