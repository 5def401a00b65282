"""Compares the experts with their genomes in the basis, before the search begins.

A basis of lower rank than an expert's task vectors changes the expert, and so does
conditioning. The run writes down how much energy of each matrix the basis keeps, and
scores such an expert both as it was trained and as its genome.
"""

import math
from collections.abc import Mapping

import pyarrow as pa

from cycleqd_jax import files
from cycleqd_jax.merging.facts import (
    energy_report,
    expert_energy_kept,
    similarities,
)
from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.individuals import TrainedExpert
from cycleqd_jax.progress import Observer
from cycleqd_jax.runs import sums
from cycleqd_jax.runs.comparison import CachedEvaluator
from cycleqd_jax.runs.folder import RunFolder
from cycleqd_jax.runs.names import expert_name, trained_expert_name
from cycleqd_jax.tasks.base import Split

PART = "trained-experts-optimise"


def describe_experts(
    basis: Basis,
    folder: RunFolder,
    observer: Observer,
    conditioning: str = "none",
    gram_tokens: int = 0,
) -> None:
    """Says how alike the experts are and what the basis keeps of them.

    Writes `basis.json`, and `energy.parquet` with a row per matrix and expert that is
    kept only in part.

    Args:
      basis: of the experts.
      folder: of the run.
      observer: hears of it.
      conditioning: `basis.conditioning`.
      gram_tokens: tokens that went through the base model for it.
    """
    alike, rows = similarities(basis), energy_report(basis)
    worst = {}
    for row in sorted(rows, key=lambda row: row.kept, reverse=True):
        worst[row.expert] = {"matrix": row.name, "kept": row.kept}
    kept = {
        name: share
        for name, share in expert_energy_kept(basis).items()
        if name in worst or conditioning != "none"
    }
    facts = {
        "conditioning": conditioning,
        "gram_tokens": gram_tokens,
        "similarity": [row._asdict() for row in alike],
        "energy_kept": kept,
        "least_kept": worst,
        "residuals": bool(basis.residuals),
    }
    sums.write(folder.path / "basis.json", files.json_text(facts).encode())
    shown = ", ".join(f"{one} and {two} {value:.3f}" for one, two, value in alike)
    observer.note(f"model similarity (1: merge best): {shown}")
    if conditioning != "none":
        by = f", by {gram_tokens:,} tokens of train problems" if gram_tokens else ""
        observer.note(f"the task vectors are conditioned: {conditioning}{by}")
    if not rows:
        return
    table = pa.Table.from_pylist([row._asdict() for row in rows])
    folder.write_part("", "energy", table)
    least = min(rows, key=lambda row: row.kept)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in kept.items())
    rest = "the rest is kept beside it" if basis.residuals else "the rest is dropped"
    observer.note(
        f"the basis keeps of the experts' energy: {shares}; least of {least.name} of "
        f"{least.expert}, {least.kept:.1%}; {rest}"
    )


def measure(
    basis: Basis, cached: CachedEvaluator, *, is_conditioned: bool = False
) -> dict[str, dict[str, float]]:
    """Scores on `optimise` of the experts as trained, where their genomes differ.

    Args:
      basis: of the experts.
      cached: evaluates them.
      is_conditioned: whether conditioning changed every expert.

    Returns:
      "trained_expert/<expert>" -> task -> score; empty where the basis is exact.
    """
    changed = {row.expert for row in energy_report(basis)}
    if basis.residuals:
        changed = set()
    if is_conditioned:
        changed = set(basis.expert_names)
    if not changed:
        return {}
    models = {
        trained_expert_name(expert): TrainedExpert(expert)
        for expert in basis.expert_names
        if expert in changed
    }
    return cached.scores(PART, models, Split.OPTIMISE)


def note_losses(
    trained: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, Mapping[str, float]],
    observer: Observer,
) -> None:
    """Writes one line per expert that was scored both ways.

    Args:
      trained: from `measure`.
      scores: "expert/<expert>" -> task -> score, of the genomes.
      observer: hears of it.
    """
    for name, before in trained.items():
        expert = name.removeprefix(trained_expert_name(""))
        after = scores[expert_name(expert)]
        means = [math.fsum(row.values()) / len(row) for row in (before, after)]
        own = ""
        if expert in before:  # it has a task
            own = f"{expert} {before[expert]:.3f} -> {after[expert]:.3f}, "
        observer.note(
            f"expert {expert} as trained and as its genome: {own}mean "
            f"{means[0]:.3f} -> {means[1]:.3f}"
        )
