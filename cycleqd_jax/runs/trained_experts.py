"""What becomes of the experts in their basis, said before the search begins.

A basis of lower rank than an expert's task vectors changes the expert: how much energy
of each matrix it keeps is written down, and the expert is scored both as it was trained
and as its genome.
"""

import math
from collections.abc import Callable, Mapping

import pyarrow as pa

from cycleqd_jax import files
from cycleqd_jax.config import RunConfig
from cycleqd_jax.evaluation.local import mean_scores
from cycleqd_jax.merging.facts import (
    energy_report,
    expert_energy_kept,
    similarities,
)
from cycleqd_jax.merging.task_vectors import ExpertWeights
from cycleqd_jax.models.llama.program import Weights
from cycleqd_jax.models.loading import load_expert
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs.comparison import Measured
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.setup import Prepared, put_on_device
from cycleqd_jax.tasks.base import Split

PART = "originals-optimise"  # the experts as they were trained


def original_name(task: str) -> str:
    """What an expert as it was trained is called in files."""
    return f"original/{task}"


def describe_experts(prepared: Prepared, folder: RunFolder, observer: Observer) -> None:
    """Says how alike the experts are and what the basis keeps of them.

    Writes `basis.json`, and `energy.parquet` with a row per matrix and expert that is
    kept only in part.
    """
    basis = prepared.basis
    alike, rows = similarities(basis), energy_report(basis)
    worst = {}
    for row in sorted(rows, key=lambda row: row.kept, reverse=True):
        worst[row.expert] = {"matrix": row.name, "kept": row.kept}
    kept = {name: v for name, v in expert_energy_kept(basis).items() if name in worst}
    facts = {
        "similarity": [row._asdict() for row in alike],
        "energy_kept": kept,
        "least_kept": worst,
        "residuals": bool(basis.residuals),
    }
    files.write_json(folder.path / "basis.json", facts)
    shown = ", ".join(f"{one} and {two} {value:.3f}" for one, two, value in alike)
    observer.note(f"model similarity (1: merge best): {shown}")
    if not rows:
        return
    table = pa.Table.from_pylist([row._asdict() for row in rows])
    files.write_table(folder.path / "energy.parquet", table)
    least = min(rows, key=lambda row: row.kept)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in kept.items())
    rest = "the rest is kept beside it" if basis.residuals else "the rest is dropped"
    observer.note(
        f"the basis keeps of the experts' energy: {shares}; least of {least.name} of "
        f"{least.expert}, {least.kept:.1%}; {rest}"
    )


def measure_originals(
    config: RunConfig, prepared: Prepared, measured: Measured
) -> dict[str, dict[str, float]]:
    """Scores on `optimise` of the experts as trained, where their genomes are others.

    Returns:
      "original/<task>" -> task -> score; empty where the basis is exact.
    """
    changed = {row.expert for row in energy_report(prepared.basis)}
    if prepared.basis.residuals or not changed:
        return {}
    makers = {
        original_name(task): _maker(path, prepared)
        for task, path in zip(prepared.task_names, config.expert_paths, strict=True)
        if task in changed
    }
    return mean_scores(measured(PART, makers, Split.OPTIMISE))


def note_losses(
    originals: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, Mapping[str, float]],
    observer: Observer,
) -> None:
    """One line per expert that was scored both ways.

    Args:
      originals: from `measure_originals`.
      scores: "expert/<task>" -> task -> score, of the genomes.
      observer: hears of it.
    """
    for task in scores and next(iter(scores.values())):
        if original_name(task) in originals:
            before = originals[original_name(task)]
            after = scores[f"expert/{task}"]
            means = [math.fsum(row.values()) / len(row) for row in (before, after)]
            observer.note(
                f"expert {task} as trained and as its genome: {task} "
                f"{before[task]:.3f} -> {after[task]:.3f}, mean {means[0]:.3f} -> "
                f"{means[1]:.3f}"
            )


def _maker(path: str, prepared: Prepared) -> Callable[[], Weights]:
    def make() -> Weights:
        # One expert at a time: full fine-tunes of a large model fill the memory.
        expert = load_expert(path, prepared.model)
        return put_on_device(ExpertWeights(prepared.model.weights, expert))

    return make
