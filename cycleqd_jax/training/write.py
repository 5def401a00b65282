"""Writes a trained expert into its folder: weights, model card, scores."""

from collections.abc import Mapping

import numpy as np

from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.experts import FullExpert
from cycleqd_jax.models.formats.hf_folder import export_model
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.formats.peft_export import save_lora
from cycleqd_jax.models.loading import load_expert
from cycleqd_jax.training.experts import NO_VALIDATION, Scores, Validation
from cycleqd_jax.training.plan import ExpertPlan
from cycleqd_jax.training.settings import JSONL, TrainConfig
from cycleqd_jax.training.setup import Setup
from cycleqd_jax.training.sources import Source
from cycleqd_jax.training.step import StepMetrics
from cycleqd_jax.training.validate import validate_full, validate_lora
from cycleqd_jax.training.work_folder import WorkFolder


def write_lora(
    config: TrainConfig,
    setup: Setup,
    plan: ExpertPlan,
    weights: Weights,
    work: WorkFolder,
    factors: Mapping[str, LoraFactor],
    last: StepMetrics,
) -> Validation:
    """Writes and validates an adapter; returns its scores.

    Args:
      config: of the training.
      setup: of all experts.
      plan: of this expert.
      weights: of the base model, on the device.
      work: where to write.
      factors: trained, on the host.
      last: metrics of the last step.
    """

    def save(card: str) -> None:
        save_lora(
            work.expert,
            factors,
            base_name=config.base_model,
            card=card,
            dtype=config.save_dtype,
        )

    work.empty_expert()
    save("Being validated.")
    found = NO_VALIDATION
    if setup.tasks:
        found = validate_lora(
            config,
            load_expert(work.expert, setup.model),
            setup.model,
            setup.program,
            weights,
            setup.tasks,
        )
    save(_card(config, setup, plan, last, found.scores))
    return found


def write_full(
    config: TrainConfig,
    setup: Setup,
    plan: ExpertPlan,
    work: WorkFolder,
    weights: Mapping[str, np.ndarray],
    last: StepMetrics,
) -> Validation:
    """Validates and writes a full fine-tune.

    Args:
      config: of the training.
      setup: of all experts.
      plan: of this expert.
      work: where to write.
      weights: on the host, in the dtype of the files.
      last: metrics of the last step.
    """
    found = NO_VALIDATION
    if setup.tasks:
        found = validate_full(
            config, FullExpert(weights), setup.model, setup.program, setup.tasks
        )
    export_model(
        work.empty_expert(),
        setup.model.config,
        weights,
        setup.model.tokenizer,
        _card(config, setup, plan, last, found.scores),
    )
    return found


def _card(
    config: TrainConfig,
    setup: Setup,
    plan: ExpertPlan,
    last: StepMetrics,
    scores: Scores,
) -> str:
    """The model card, Markdown."""
    sources = [setup.sources[name] for name in plan.sources]
    kind = "LoRA expert" if config.method == "lora" else "Full fine-tune"
    start = "" if setup.start is None else f", starting from {setup.start.name},"
    lines = [
        f"# {kind} for {plan.name}",
        "",
        f"Trained by `python -m experiments.train_experts` from `{config.base_model}`"
        f"{start} {_data(config, plan, sources)}, seed {config.seed}; all settings are "
        "in `training.yaml`, the loss of every step in `history.jsonl`.",
        "",
        f"Loss at the last step ({last.step}): {last.loss:.4f} nats per answer token.",
    ]
    if scores:
        lines += [
            "",
            f"| accuracy on `validate` ({config.problems.validate_} problems a task) "
            "| base | expert |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| {name} | {scores['base'][name]:.3f} | {scores['expert'][name]:.3f} |"
            for name in scores["base"]
        ]
    return "\n".join(lines) + "\n"


def _data(config: TrainConfig, plan: ExpertPlan, sources: list[Source]) -> str:
    problems = f"generated problems (problem seed {config.problems.seed})"
    if len(sources) == 1 and not sources[0].name.endswith(JSONL):
        return f"on {config.problems.train} {problems}"
    total = sum(plan.sources.values())
    parts = []
    for source in sources:
        what = "dialogues" if source.name.endswith(JSONL) else problems
        share = plan.sources[source.name] / total
        used = source.dialogues - source.dropped
        parts.append(f"`{source.name}` ({share:.1%}; {used} {what})")
    return "on " + ", ".join(parts)
