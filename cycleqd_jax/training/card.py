"""The model card of a trained expert."""

from cycleqd_jax.training.plan import ExpertPlan
from cycleqd_jax.training.settings import JSONL, TrainConfig
from cycleqd_jax.training.sources import Source
from cycleqd_jax.training.step import StepMetrics
from cycleqd_jax.training.validate import Scores


def card(
    config: TrainConfig,
    plan: ExpertPlan,
    sources: list[Source],
    last: StepMetrics,
    scores: Scores | None,
) -> str:
    """Markdown: what it learnt from, how, and what it scores.

    Args:
      config: of the training.
      plan: the expert.
      sources: what it learnt from.
      last: metrics of the last step.
      scores: accuracy on `validate`, or None where no task was there to score on.
    """
    kind = "LoRA expert" if config.method == "lora" else "Full fine-tune"
    lines = [
        f"# {kind} for {plan.name}",
        "",
        f"Trained by `python -m experiments.train_experts` from `{config.base_model}` "
        f"{_data(config, plan, sources)}, seed {config.seed}; all settings are in "
        "`training.yaml`, the loss of every step in `history.jsonl`.",
        "",
        f"Loss at the last step ({last.step}): {last.loss:.4f} nats per answer token.",
    ]
    if scores is not None:
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
