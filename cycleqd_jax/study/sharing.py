"""Copies what the runs of a comparison have in common, so that it is evaluated once.

Base, experts and fixed merges have the same episodes in all runs with the same models,
problems, basis and engine. The first such run evaluates them. Their episodes are copied
to the others, with costs and wall times, so that every run folder is complete and the
tokens of each method are what they would be alone.
"""

from collections.abc import Sequence
from typing import Any

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.runs import reading, sums, trained_experts
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.results import EXPERTS_PART
from cycleqd_jax.search.registry import search_class
from cycleqd_jax.study.settings import Study

_PARTS = (
    trained_experts.PART,
    EXPERTS_PART,
    "merges-optimise",
    "merges-validate",
    "baselines-test",
)
_PHASES = ("experts", "baselines")  # those of these parts alone
# Settings that change neither these models nor how they are evaluated.
_NO_MATTER = ("seed", "run_dir", "logging", "search", "search_settings", "qd",
              "fitness", "racing", "aggregation")  # fmt: skip


def share_parts(
    study: Study,
    name: str,
    seed: int,
    folder: RunFolder,
    cells: Sequence[tuple[str, int]] | None = None,
) -> None:
    """Copies what an earlier run of the comparison has evaluated already.

    Args:
      study: the comparison; its runs up to this one are finished.
      name: the method.
      seed: of the run.
      folder: of the run, open. Parts that it has are left as they are.
      cells: name and seed of the runs that are made here; None takes all.

    Raises:
      BadInputError: a part of the earlier run is damaged.
      RunError: the disk is full or not writable.
    """
    cell = shared_with(study, name, seed, cells)
    if cell is None:
        return
    earlier = study.folder / cell[0] / f"seed-{cell[1]}"
    if not folder.part("results", EXPERTS_PART).exists():
        seconds = reading.read_seconds(earlier)
        for phase in _PHASES:
            folder.log_time(phase, seconds.get(phase, 0.0))
    for part in _PARTS:
        if not (earlier / "results" / f"{part}.parquet").exists():
            continue
        if folder.part("results", part).exists():
            continue
        # A part of the results that exists is complete, so it comes last.
        for kind in ("times", "costs", "results"):
            source = earlier / kind / f"{part}.parquet"
            if kind == "times":  # has no checksum
                files.write_bytes(folder.part(kind, part), source.read_bytes())
            else:
                content = sums.intact(source).read_bytes()
                sums.write(folder.part(kind, part), content)


def shared_with(
    study: Study,
    name: str,
    seed: int,
    cells: Sequence[tuple[str, int]] | None = None,
) -> tuple[str, int] | None:
    """Method and seed of the run that evaluates these parts; None if it is this one."""
    own = _evaluation(study.run_config(name, seed))
    for cell in study.cells() if cells is None else cells:
        if cell == (name, seed):
            return None
        if _evaluation(study.run_config(*cell)) == own:
            return cell
    raise ValueError(f"{name} with seed {seed} is no run of the comparison")


def _evaluation(config: RunConfig) -> dict[str, Any]:
    """All that decides the episodes of base, experts and fixed merges."""
    found = config.model_dump(mode="json", exclude=set(_NO_MATTER))
    search = search_class(config.search)
    found["form"] = search.basis_form(config.qd, config.search_settings)
    if config.engine.mode == "auto":  # it depends on the number in a pass
        found["individuals"] = config.qd.children_per_batch
    return found
