"""Trains the experts of a segmentation model; `experts` has what all kinds share."""

import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from cycleqd_jax.evaluation.base import Cost
from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.expert_folders import open_segmentation_expert
from cycleqd_jax.models.experts import Expert, FullExpert
from cycleqd_jax.models.formats.hf_folder import export_segmentation_model
from cycleqd_jax.models.formats.peft_export import save_lora
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.progress import Observer
from cycleqd_jax.tasks.base import Split
from cycleqd_jax.training import full, lora
from cycleqd_jax.training.experts import (
    NO_VALIDATION,
    Scores,
    Validation,
    train_jobs,
)
from cycleqd_jax.training.images.batches import ImageBatches
from cycleqd_jax.training.images.loss import image_loss
from cycleqd_jax.training.images.score import score_models
from cycleqd_jax.training.images.setup import ImageSetup, set_up
from cycleqd_jax.training.plan import ExpertPlan, plan_keys
from cycleqd_jax.training.settings import ImagesConfig
from cycleqd_jax.training.sft import Training
from cycleqd_jax.training.step import Method, Params, StepMetrics
from cycleqd_jax.training.work_folder import WorkFolder


def train_image_experts(config: ImagesConfig, observer: Observer) -> None:
    """Trains, validates and writes every expert that is not complete.

    Args:
      config: the settings.
      observer: is told of phases, steps and scores.

    Raises:
      BadInputError: a setting, source or folder of any expert is wrong; nothing was
        trained.
      RunError: a training failed; it can be resumed.
    """
    setup, jobs = set_up(config, observer)
    train_jobs(config, jobs, _Images(config, setup), observer)


class _Images:
    """Experts on images; see `experts.Kind`."""

    share = "jaccard"

    def __init__(self, config: ImagesConfig, setup: ImageSetup):
        self._config, self._setup = config, setup

    @functools.cached_property
    def _weights(self) -> Weights:
        """Frozen weights on the device; none if all are trained."""
        if self._config.method == "full":
            return {}
        return put_on_device(self._setup.base.weights)

    def training(self, plan: ExpertPlan) -> Training:
        """As of `Kind`."""
        config, setup = self._config, self._setup
        init_key, order_key = plan_keys(plan, config.seed)
        method: Method
        init: Callable[[], Params]
        if config.method == "full":
            method = full.Full("float32")
            init = partial(full.init_masters, setup.base.weights)
        else:
            method = lora.Lora(config.lora.scale)
            program = setup.base.program
            init = partial(lora.init_factors, program, config.lora, init_key)
        return Training(
            program=setup.base.program,
            weights=self._weights,
            method=method,
            init=init,
            batches=ImageBatches(
                [setup.sources[name] for name in plan.sources],
                list(plan.sources.values()),
                batch_size=config.optimiser.batch_size,
                seed=int(jax.random.bits(order_key)),
            ),
            optimiser=config.optimiser,
            curve=setup.curve,
            loss=image_loss,
        )

    def stored(self, params: Params, training: Training) -> Any:
        """As of `Kind`; layers that the loss does not reach are left out."""
        if self._config.method == "full":
            return full.to_numpy(params, self._config.save_dtype)
        factors = lora.as_stored(params, training.method.scale)
        return {name: factor for name, factor in factors.items() if factor.b.any()}

    def write(
        self, plan: ExpertPlan, work: WorkFolder, stored: Any, last: StepMetrics
    ) -> Validation:
        """As of `Kind`."""
        folder, base = work.empty_expert(), self._setup.base
        if self._config.method == "full":
            found = self._scored(FullExpert(stored))
            card = self._card(plan, last, found.scores)
            export_segmentation_model(folder, base.program.config, stored, card)
            return found

        def save(card: str) -> None:
            save_lora(
                folder,
                stored,
                base_name=self._config.base_model,
                card=card,
                dtype=self._config.save_dtype,
                segmentation=True,
            )

        save("Being validated.")
        config = base.program.config
        found = self._scored(open_segmentation_expert(folder, config, base.weights))
        save(self._card(plan, last, found.scores))
        return found

    def cost(
        self, training: Training, seconds: float, spent: Cost
    ) -> tuple[Mapping[str, Any], str]:
        """As of `Kind`."""
        optimiser, curve = training.optimiser, 0
        updates = optimiser.steps * optimiser.batch_size
        if training.curve is not None:
            times = -(-optimiser.steps // optimiser.validate_every)
            curve = times * training.curve.images
        cost = {
            "images_forward": updates + curve + spent.tokens_forward,
            "images_backward": updates,
            "seconds": seconds + spent.seconds,
        }
        line = f"{cost['images_forward']} images forward and {updates} backward"
        return cost, line

    def _scored(self, expert: Expert) -> Validation:
        if not self._setup.tasks:
            return NO_VALIDATION
        setup = self._setup
        return score_models(setup.base, {"expert": expert}, setup.tasks, Split.VALIDATE)

    def _card(self, plan: ExpertPlan, last: StepMetrics, scores: Scores) -> str:
        """The model card, Markdown."""
        config, problems = self._config, self._config.problems
        adapter = config.method == "lora"
        lines = [
            f"# {'LoRA expert' if adapter else 'Full fine-tune'} for {plan.name}",
            "",
            "Trained by `python -m experiments.train_experts` from "
            f"`{config.base_model}` on {', '.join(f'`{s}`' for s in plan.sources)} "
            f"({problems.train} images each, problem seed {problems.seed}), seed "
            f"{config.seed}; all settings are in `training.yaml`, the loss of every "
            "step in `history.jsonl`.",
            "",
            f"Loss at the last step ({last.step}): {last.loss:.4f}, mean Jaccard index "
            f"{last.token_accuracy:.3f}.",
        ]
        if scores:
            measures = {task.name: task.measure for task in self._setup.tasks}
            lines += [
                "",
                f"| score on `validate` ({problems.validate_} images) | measure | base "
                "| expert |",
                "| --- | --- | --- | --- |",
            ]
            lines += [
                f"| {name} | {measures[name]} | {scores['base'][name]:.3f} "
                f"| {scores['expert'][name]:.3f} |"
                for name in scores["base"]
            ]
        return "\n".join(lines) + "\n"
