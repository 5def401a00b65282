"""The loss of a batch of dialogues, and one update with Optax of any loss.

Updates serve LoRA and full fine-tuning, of language models and of others.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from cycleqd_jax.models.base import CausalLM, Deltas, Packed, Weights
from cycleqd_jax.training.batches import Batch
from cycleqd_jax.training.settings import UpdateSettings

Params = Any  # the trained parameters, a pytree of float32 arrays
# (params, weights, batch, total, *, program, method, recompute) -> the loss, and the
# share of right answers, both sums over the batch divided by `total`; see `loss`.
Loss = Callable[..., tuple[jax.Array, jax.Array]]


class Method(Protocol):
    """Makes a model of parameters; hashable, since it is static in `jax.jit`."""

    def model(self, params: Params, weights: Weights) -> tuple[Weights, Deltas]:
        """Weights and low-rank additions from trained and frozen parameters."""
        ...


class TrainState(NamedTuple):
    """Attributes: trained parameters, optimiser state, int32 count of updates."""

    params: Params
    optimiser: optax.OptState
    step: jax.Array


class StepMetrics(NamedTuple):
    """The metrics of one update.

    Attributes:
      step: its number, from 1.
      loss: of its dialogues, before the update, in nats per learnt token; or of its
        images.
      token_accuracy: share of these tokens that are predicted, 0-1; of images the mean
        Jaccard index.
      validation_loss: by task, after the update; None where it was not computed.
      validation_token_accuracy: likewise.
    """

    step: int
    loss: float
    token_accuracy: float
    validation_loss: Mapping[str, float] | None = None
    validation_token_accuracy: Mapping[str, float] | None = None


def loss(
    params: Params,
    weights: Weights,
    batch: Batch,
    total: jax.Array,
    *,
    program: CausalLM,
    method: Method,
    recompute: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the targets in nats, and how many are predicted.

    Both are sums over the batch, divided by `total`, the number of targets of the
    update. The output head, with a large vocabulary the most costly layer, runs at the
    targets' positions only.
    """
    weights, deltas = method.model(params, weights)
    packed = None
    if batch.segments is not None:
        packed = Packed(batch.segments, batch.segment_positions)
    hidden = program.hidden(
        weights, batch.tokens, deltas, packed=packed, recompute=recompute
    )
    hidden = jnp.take_along_axis(hidden, batch.positions[..., None], axis=1)
    logits = program.logits(weights, hidden, deltas)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    hits = jnp.argmax(logits, axis=-1) == batch.targets
    return jnp.sum(losses * batch.mask) / total, jnp.sum(hits * batch.mask) / total


def make_optimiser(settings: UpdateSettings) -> optax.GradientTransformation:
    """AdamW with linear warm-up, cosine decay and gradient clipping by global norm.

    Weight decay applies to matrices only, not to norm scales and biases, as in the
    trainer of `transformers`.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        decay_steps=settings.steps,
        end_value=settings.learning_rate * settings.final_fraction,
    )
    return optax.chain(
        optax.clip_by_global_norm(settings.max_grad_norm),
        optax.adamw(schedule, weight_decay=settings.weight_decay, mask=_are_matrices),
    )


def init_state(params: Params, optimiser: optax.GradientTransformation) -> TrainState:
    """The state before the first update."""
    return TrainState(params, optimiser.init(params), jnp.int32(0))


@partial(
    jax.jit,
    static_argnames=(
        "program",
        "method",
        "optimiser",
        "accumulate",
        "recompute",
        "loss",
    ),
    donate_argnames="state",
)
def train_step(
    state: TrainState,
    weights: Weights,
    batch: Any,
    *,
    program: Any,
    method: Method,
    optimiser: optax.GradientTransformation,
    accumulate: int = 1,
    recompute: bool = False,
    loss: Loss = loss,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Makes one update.

    Args:
      state: before the update; donated.
      weights: frozen.
      batch: what the loss takes, like `Batch`: a tuple of arrays whose first axis is a
        multiple of `accumulate`, with a `mask` that sums to what the loss is a mean of.
      program: the model, as the loss wants it.
      method: what `state.params` are.
      optimiser: made by `make_optimiser`.
      accumulate: number of parts of the batch whose gradients are added up.
      recompute: whether layers are recomputed in the backward pass.
      loss: what is minimised.

    Returns:
      The new state, and `loss`, `token_accuracy` and `grad_norm` before clipping.
    """
    value_and_grad = jax.value_and_grad(
        partial(loss, program=program, method=method, recompute=recompute),
        has_aux=True,
    )
    total = jnp.sum(batch.mask)
    if accumulate == 1:
        (value, hits), grads = value_and_grad(state.params, weights, batch, total)
    else:

        def add(sums: Any, part: Any) -> tuple[Any, None]:
            found = value_and_grad(state.params, weights, part, total)
            return jax.tree.map(jnp.add, sums, found), None

        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
        zero = jnp.float32(0)
        sums = ((zero, zero), jax.tree.map(jnp.zeros_like, state.params))
        ((value, hits), grads), _ = jax.lax.scan(add, sums, parts)
    updates, moments = optimiser.update(grads, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "loss": value,
        "token_accuracy": hits,
        "grad_norm": optax.tree.norm(grads),
    }
    return TrainState(params, moments, state.step + 1), metrics


def _are_matrices(params: Params) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)
