"""The training loop of one expert: batches in, trained parameters out."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from cycleqd_jax.errors import RunError
from cycleqd_jax.models.llama.program import LlamaProgram, Weights
from cycleqd_jax.training import step as steps
from cycleqd_jax.training.batches import Batches
from cycleqd_jax.training.checkpoints import Progress, TrainCheckpoints
from cycleqd_jax.training.settings import OptimiserSettings
from cycleqd_jax.training.step import Method, Params, StepMetrics


@dataclasses.dataclass(frozen=True)
class Training:
    """What is trained, on what.

    Attributes:
      program: the model.
      weights: those that stay, on the device; empty where all are trained.
      method: how parameters become a model.
      init: makes the parameters to begin with, as arrays of their own.
      batches: of every update.
      optimiser: steps and rates.
      recompute: whether layers are computed again in the backward pass.
    """

    program: LlamaProgram
    weights: Weights
    method: Method
    init: Callable[[], Params]
    batches: Batches
    optimiser: OptimiserSettings
    recompute: bool = False


class TrainedExpert(NamedTuple):
    """Attributes: the trained parameters and the metrics of every step."""

    params: Params
    history: tuple[StepMetrics, ...]


def train(
    training: Training,
    *,
    checkpoints: TrainCheckpoints | None = None,
    on_restored: Callable[[tuple[StepMetrics, ...]], None] | None = None,
    on_step: Callable[[StepMetrics], None] | None = None,
) -> TrainedExpert:
    """Trains one expert on assistant replies; the base weights are not changed.

    Args:
      training: what and on what.
      checkpoints: if there is one among them, training goes on from it and ends as if
        it had never stopped; new ones are made as the settings say.
      on_restored: called with the steps of the checkpoint that is gone on from.
      on_step: called after each step.

    Raises:
      RunError: if the loss is no longer finite or a checkpoint cannot be written.
    """
    settings = training.optimiser
    transform = steps.make_optimiser(
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        steps=settings.steps,
        final_fraction=settings.final_fraction,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )
    state, history = _begin(training, transform, checkpoints)
    if history and on_restored is not None:
        on_restored(tuple(history))
    for number in range(len(history) + 1, settings.steps + 1):
        state, metrics = steps.train_step(
            state,
            training.weights,
            training.batches.at(number),
            program=training.program,
            method=training.method,
            optimiser=transform,
            accumulate=settings.accumulate_steps,
            recompute=training.recompute,
        )
        row = StepMetrics(
            number, float(metrics["loss"]), float(metrics["token_accuracy"])
        )
        if not math.isfinite(row.loss):
            raise RunError(
                f"The loss at step {number} is {row.loss}; lower "
                f"optimiser.learning_rate, which is {settings.learning_rate}."
            )
        history.append(row)
        is_last = number == settings.steps
        if checkpoints is not None and (
            is_last or number % settings.checkpoint_every == 0
        ):
            checkpoints.save(Progress(state, tuple(history)))
        if on_step is not None:
            on_step(row)
    return TrainedExpert(state.params, tuple(history))


def _begin(
    training: Training,
    transform: optax.GradientTransformation,
    checkpoints: TrainCheckpoints | None,
) -> tuple[steps.TrainState, list[StepMetrics]]:
    """The state to go on from and the metrics up to it."""

    def fresh() -> steps.TrainState:
        return steps.init_state(training.init(), transform)

    if checkpoints is not None:
        # Shapes are enough here: no memory is taken for a state that is then replaced.
        found = checkpoints.restore(jax.eval_shape(fresh))
        if found is not None:
            return found.state, list(found.history)
    return fresh(), []
