"""The training loop of one expert."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import optax

from cycleqd_jax.errors import RunError
from cycleqd_jax.models.base import Weights
from cycleqd_jax.training import step as steps
from cycleqd_jax.training.checkpoints import Progress, TrainCheckpoints
from cycleqd_jax.training.settings import UpdateSettings
from cycleqd_jax.training.step import Loss, Method, Params, StepMetrics


class Batches(Protocol):
    """The batches of all updates, like `batches.Batches`."""

    def at(self, step: int) -> Any:
        """The batch of an update; the first is 1."""
        ...


class Curve(Protocol):
    """Held-out data, like `curve.ValidationCurve`.

    Attributes:
      tasks: names of the tasks, in order.
    """

    tasks: tuple[str, ...]

    def losses(
        self, params: Params, weights: Weights, *, program: Any, method: Method
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Loss and share of right answers, by task."""
        ...


@dataclasses.dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
      program: the model, as the loss wants it.
      weights: frozen weights, on the device; empty if all are trained.
      method: how parameters become a model.
      init: makes the initial parameters; training donates them.
      batches: of all updates.
      optimiser: its settings.
      recompute: whether layers are recomputed in the backward pass.
      curve: the data of `optimiser.validate_every`; None computes no losses on them.
      loss: what is minimised.
    """

    program: Any
    weights: Weights
    method: Method
    init: Callable[[], Params]
    batches: Batches
    optimiser: UpdateSettings
    recompute: bool = False
    curve: Curve | None = None
    loss: Loss = steps.loss


class TrainingResult(NamedTuple):
    """Attributes: the trained parameters and the metrics of all steps."""

    params: Params
    history: tuple[StepMetrics, ...]


def train(
    training: Training,
    *,
    checkpoints: TrainCheckpoints | None = None,
    on_restored: Callable[[tuple[StepMetrics, ...]], None] | None = None,
    on_step: Callable[[StepMetrics], None] | None = None,
) -> TrainingResult:
    """Trains one expert.

    Args:
      training: what to train.
      checkpoints: training resumes from the newest one, with the same result as without
        an interruption, and saves new ones.
      on_restored: called with the steps of the restored checkpoint.
      on_step: called after each step.

    Raises:
      RunError: the loss is not finite, or a checkpoint cannot be written.
    """
    settings = training.optimiser
    transform = steps.make_optimiser(settings)
    state, history = _start(training, transform, checkpoints)
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
            loss=training.loss,
        )
        row = StepMetrics(
            number, float(metrics["loss"]), float(metrics["token_accuracy"])
        )
        if not math.isfinite(row.loss):
            raise RunError(
                f"The loss at step {number} is {row.loss}; lower "
                f"optimiser.learning_rate, which is {settings.learning_rate}."
            )
        is_last = number == settings.steps
        if training.curve is not None and (
            is_last or number % settings.validate_every == 0
        ):
            row = _validated(training, row, state.params)
        history.append(row)
        if checkpoints is not None and (
            is_last or number % settings.checkpoint_every == 0
        ):
            checkpoints.save(Progress(state, tuple(history)))
        if on_step is not None:
            on_step(row)
    return TrainingResult(state.params, tuple(history))


def _validated(training: Training, row: StepMetrics, params: Params) -> StepMetrics:
    """The metrics of a step with those of the validation dialogues."""
    losses, accuracies = training.curve.losses(
        params, training.weights, program=training.program, method=training.method
    )
    for task, value in losses.items():
        if not math.isfinite(value):
            raise RunError(
                f"The validation loss of {task} after step {row.step} is {value}; "
                "lower optimiser.learning_rate, which is "
                f"{training.optimiser.learning_rate}."
            )
    return row._replace(validation_loss=losses, validation_token_accuracy=accuracies)


def _start(
    training: Training,
    transform: optax.GradientTransformation,
    checkpoints: TrainCheckpoints | None,
) -> tuple[steps.TrainState, list[StepMetrics]]:
    """The state to start from and the metrics of the steps before."""

    def fresh() -> steps.TrainState:
        return steps.init_state(training.init(), transform)

    if checkpoints is not None:
        # Shapes only: the initial state would take as much memory as the restored one.
        found = checkpoints.restore(jax.eval_shape(fresh))
        if found is not None:
            return found.state, list(found.history)
    return fresh(), []
