"""The training loop of one expert: examples in, LoRA factors out."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cycleqd_jax.config_training import OptimiserConfig
from cycleqd_jax.errors import RunError
from cycleqd_jax.models.llama import LlamaProgram, Weights
from cycleqd_jax.training import lora
from cycleqd_jax.training.examples import Example, batches


class StepMetrics(NamedTuple):
    """Attributes: step (from 1), loss in nats per token, token_accuracy 0-1."""

    step: int
    loss: float
    token_accuracy: float


class TrainedExpert(NamedTuple):
    """Attributes: the factors and the metrics of every step."""

    factors: lora.Factors
    history: tuple[StepMetrics, ...]


def train_lora(
    program: LlamaProgram,
    weights: Weights,
    examples: Sequence[Example],
    key: jax.Array,
    *,
    settings: lora.LoraSettings,
    optimiser: OptimiserConfig,
    on_step: Callable[[StepMetrics], None] | None = None,
) -> TrainedExpert:
    """Trains one expert on assistant replies; the base weights are not changed.

    Args:
      program: the model.
      weights: its flat weights, on the device.
      examples: what to learn.
      key: one typed key, for initial values and the order of examples; consumed.
      settings: shape of the adapter.
      optimiser: steps, rates and sizes.
      on_step: called after each step.

    Raises:
      BadInputError: no examples, one that is too long, or a target that is no matrix.
      RunError: if the loss is no longer finite.
    """
    init_key, order_key = jax.random.split(key)
    factors = lora.init_factors(program, settings, init_key)
    transform = lora.make_optimiser(
        learning_rate=optimiser.learning_rate,
        warmup_steps=optimiser.warmup_steps,
        steps=optimiser.steps,
        final_fraction=optimiser.final_fraction,
        weight_decay=optimiser.weight_decay,
        max_grad_norm=optimiser.max_grad_norm,
    )
    state = lora.TrainState(factors, transform.init(factors), jnp.int32(0))
    stream: Iterator = batches(
        examples,
        batch_size=optimiser.batch_size,
        max_length=optimiser.max_length,
        seed=int(jax.random.bits(order_key)),
    )
    history = []
    for step in range(1, optimiser.steps + 1):
        state, metrics = lora.train_step(
            state,
            weights,
            next(stream),
            program=program,
            optimiser=transform,
            scale=settings.scale,
        )
        row = StepMetrics(
            step, float(metrics["loss"]), float(metrics["token_accuracy"])
        )
        if not jnp.isfinite(row.loss):
            raise RunError(
                f"The loss at step {step} is {row.loss}; lower "
                f"optimiser.learning_rate, which is {optimiser.learning_rate}."
            )
        history.append(row)
        if on_step is not None:
            on_step(row)
    return TrainedExpert(state.factors, tuple(history))
