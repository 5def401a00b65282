"""Trains the experts of a language model; `experts` has what all kinds share."""

import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from cycleqd_jax.evaluation.base import Cost
from cycleqd_jax.models.base import Weights
from cycleqd_jax.models.sharding import put_on_device
from cycleqd_jax.progress import Observer
from cycleqd_jax.training import full, lora
from cycleqd_jax.training.batches import Batches
from cycleqd_jax.training.cost import training_cost
from cycleqd_jax.training.experts import Validation, train_jobs
from cycleqd_jax.training.plan import ExpertPlan, plan_keys
from cycleqd_jax.training.settings import TrainConfig
from cycleqd_jax.training.setup import Setup, set_up
from cycleqd_jax.training.sft import Training
from cycleqd_jax.training.step import Method, Params, StepMetrics
from cycleqd_jax.training.work_folder import WorkFolder
from cycleqd_jax.training.write import write_full, write_lora


def train_experts(config: TrainConfig, observer: Observer) -> None:
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
    train_jobs(config, jobs, _Text(config, setup), observer)


class _Text:
    """Experts on dialogues; see `experts.Kind`."""

    share = "token_accuracy"

    def __init__(self, config: TrainConfig, setup: Setup):
        self._config, self._setup = config, setup

    @functools.cached_property
    def _weights(self) -> Weights:
        """Frozen weights on the device; none if all are trained."""
        if self._config.method == "full":
            return {}
        return put_on_device(self._setup.model.weights)

    def training(self, plan: ExpertPlan) -> Training:
        """As of `Kind`."""
        config, setup = self._config, self._setup
        init_key, order_key = plan_keys(plan, config.seed)
        method: Method
        init: Callable[[], Params]
        if config.method == "full":
            method = full.Full(config.dtype)
            init = partial(full.init_masters, setup.model.weights)
        elif setup.start is not None:
            method, init = lora.Lora(setup.start.scale), setup.start.factors
        else:
            method = lora.Lora(config.lora.scale)
            init = partial(lora.init_factors, setup.program, config.lora, init_key)
        return Training(
            program=setup.program,
            weights=self._weights,
            method=method,
            init=init,
            batches=Batches(
                [setup.sources[name].examples for name in plan.sources],
                list(plan.sources.values()),
                batch_size=config.optimiser.batch_size,
                steps=config.optimiser.steps,
                seed=int(jax.random.bits(order_key)),
                packing=config.packing,
                multiple_of=config.optimiser.accumulate_steps,
            ),
            optimiser=config.optimiser,
            recompute=config.gradient_checkpointing,
            curve=setup.curve,
        )

    def stored(self, params: Params, training: Training) -> Any:
        """As of `Kind`."""
        if self._config.method == "lora":
            return lora.as_stored(params, training.method.scale)
        return full.to_numpy(params, self._config.save_dtype)

    def write(
        self, plan: ExpertPlan, work: WorkFolder, stored: Any, last: StepMetrics
    ) -> Validation:
        """As of `Kind`."""
        config, setup = self._config, self._setup
        if config.method == "lora":
            return write_lora(config, setup, plan, self._weights, work, stored, last)
        return write_full(config, setup, plan, work, stored, last)

    def cost(
        self, training: Training, seconds: float, spent: Cost
    ) -> tuple[Mapping[str, Any], str]:
        """As of `Kind`."""
        cost = training_cost(training, seconds, spent)
        forward, backward = cost["tokens_forward"], cost["tokens_backward"]
        return cost, f"{forward} tokens forward and {backward} backward"
