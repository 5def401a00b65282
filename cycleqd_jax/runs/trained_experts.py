"""What the basis makes of the experts, reported before the search begins.

A basis of lower rank than an expert's task vectors changes the expert. The run reports
how much energy of each matrix the basis keeps, and scores such an expert twice: with
the weights it was trained to have, and as its genome.
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

PART = "trained_experts-optimise"  # the part of the results with their episodes


def trained_expert_name(task: str) -> str:
    """The name in files of a task's expert with the weights it was trained to have."""
    return f"trained_expert/{task}"


def describe_experts(prepared: Prepared, folder: RunFolder, observer: Observer) -> None:
    """Reports how similar the experts are and how much of them the basis keeps.

    Writes `basis.json`. If the basis changes an expert it also writes `energy.parquet`,
    with one row per matrix and expert that is not kept in full.
    """
    basis = prepared.basis
    pairs, rows = similarities(basis), energy_report(basis)
    worst = {}
    for row in sorted(rows, key=lambda row: row.kept, reverse=True):
        worst[row.expert] = {"matrix": row.name, "kept": row.kept}
    kept = {name: v for name, v in expert_energy_kept(basis).items() if name in worst}
    facts = {
        "similarity": [pair._asdict() for pair in pairs],
        "energy_kept": kept,
        "least_kept": worst,
        "residuals": bool(basis.residuals),
    }
    files.write_json(folder.path / "basis.json", facts)
    shown = ", ".join(f"{one} and {two} {value:.3f}" for one, two, value in pairs)
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


def measure_trained_experts(
    config: RunConfig, prepared: Prepared, measured: Measured
) -> dict[str, dict[str, float]]:
    """Scores on `optimise` of the experts that the basis changes, as trained.

    Returns:
      "trained_expert/<task>" -> task -> score; empty where the basis changes no expert.
    """
    changed = {row.expert for row in energy_report(prepared.basis)}
    if prepared.basis.residuals or not changed:
        return {}
    makers = {
        trained_expert_name(task): _maker(path, prepared)
        for task, path in zip(prepared.task_names, config.expert_paths, strict=True)
        if task in changed
    }
    return mean_scores(measured(PART, makers, Split.OPTIMISE))


def note_losses(
    trained: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, Mapping[str, float]],
    observer: Observer,
) -> None:
    """Reports one line per expert that was scored both as trained and as its genome.

    Args:
      trained: from `measure_trained_experts`.
      scores: "expert/<task>" -> task -> score, of the genomes.
      observer: gets the lines.
    """
    for task in scores and next(iter(scores.values())):
        if trained_expert_name(task) in trained:
            before = trained[trained_expert_name(task)]
            after = scores[f"expert/{task}"]
            means = [math.fsum(row.values()) / len(row) for row in (before, after)]
            observer.note(
                f"expert {task} as trained and as its genome: {task} "
                f"{before[task]:.3f} -> {after[task]:.3f}, mean {means[0]:.3f} -> "
                f"{means[1]:.3f}"
            )


def _maker(path: str, prepared: Prepared) -> Callable[[], Weights]:
    def make() -> Weights:
        # One expert at a time, and on a mesh divided among its devices: several full
        # fine-tunes of a large model do not fit into memory together.
        expert = load_expert(path, prepared.model)
        weights = ExpertWeights(prepared.model.weights, expert)
        return put_on_device(weights, prepared.mesh)

    return make
