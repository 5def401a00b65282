"""LoRA: trained factors, their loss and one update of them with Optax.

Only the factors are trained: `W + (alpha / rank) B A`, run in the same factored form
that populations use, so the base weights are read and never changed.

Source: LoRA (arXiv 2106.09685); initial values as PEFT's.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.models.llama import Deltas, LlamaProgram, LowRank, Weights
from cycleqd_jax.training.examples import Batch

Factors = dict[str, dict[str, jax.Array]]  # name -> {"a": [r, in], "b": [out, r]}


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Attributes: as PEFT names them; the scale is `alpha / rank`."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What `B A` is multiplied by."""
        return self.alpha / self.rank


class TrainState(NamedTuple):
    """Attributes: trained factors, optimiser state, int32 step count."""

    factors: Factors
    optimiser: optax.OptState
    step: jax.Array


def init_factors(
    program: LlamaProgram, settings: LoraSettings, key: jax.Array
) -> Factors:
    """Factors of every targeted matrix: `A ~ U(-1/sqrt(in), 1/sqrt(in))`, `B = 0`.

    Args:
      program: the model.
      settings: rank and targets.
      key: one typed key; consumed.

    Raises:
      BadInputError: if a target names no matrix of the model.
    """
    shapes = program.weight_shapes()
    names = []
    for target in settings.targets:
        found = [n for n in shapes if n.split(".")[-2] == target]
        if not found or len(shapes[found[0]].shape) != 2:
            raise BadInputError(
                f"lora.targets has {target!r}, which names no linear layer of the "
                "model; use names like q_proj or down_proj."
            )
        names.extend(found)
    factors = {}
    for name, subkey in zip(
        sorted(names), jax.random.split(key, len(names)), strict=True
    ):
        out, fan_in = shapes[name].shape
        bound = fan_in**-0.5
        a = jax.random.uniform(subkey, (settings.rank, fan_in), minval=-bound,
                               maxval=bound)  # fmt: skip
        factors[name] = {"a": a, "b": jnp.zeros((out, settings.rank))}
    return factors


def as_deltas(factors: Factors, scale: float) -> Deltas:
    """The additions that `factors` make, alike for all rows of a batch."""
    return Deltas(
        {
            name: LowRank(f["b"], f["a"].T, jnp.full((1, f["a"].shape[0]), scale))
            for name, f in factors.items()
        }
    )


def loss(
    factors: Factors,
    weights: Weights,
    batch: Batch,
    *,
    program: LlamaProgram,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy of the answer tokens, in nats, and the share predicted.

    Hidden states are picked at the answer positions before the output head, which
    with a large vocabulary is the most costly layer.
    """
    deltas = as_deltas(factors, scale)
    hidden = program.hidden(weights, batch.tokens, deltas)
    hidden = jnp.take_along_axis(hidden, batch.positions[..., None], axis=1)
    logits = program.head(weights, hidden, deltas)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    hits = jnp.argmax(logits, axis=-1) == batch.targets
    total = jnp.sum(batch.mask)
    return jnp.sum(losses * batch.mask) / total, jnp.sum(hits * batch.mask) / total


def make_optimiser(
    *,
    learning_rate: float,
    warmup_steps: int,
    steps: int,
    final_fraction: float,
    weight_decay: float,
    max_grad_norm: float,
) -> optax.GradientTransformation:
    """AdamW with linear warm-up, cosine decay and gradient clipping by global norm."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=steps,
        end_value=learning_rate * final_fraction,
    )
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.adamw(schedule, weight_decay=weight_decay),
    )


@partial(
    jax.jit, static_argnames=("program", "optimiser", "scale"), donate_argnames="state"
)
def train_step(
    state: TrainState,
    weights: Weights,
    batch: Batch,
    *,
    program: LlamaProgram,
    optimiser: optax.GradientTransformation,
    scale: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update; returns the new state and `loss`, `token_accuracy`, `grad_norm`."""
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    (value, hits), grads = value_and_grad(
        state.factors, weights, batch, program=program, scale=scale
    )
    updates, moments = optimiser.update(grads, state.optimiser, state.factors)
    factors = optax.apply_updates(state.factors, updates)
    metrics = {
        "loss": value,
        "token_accuracy": hits,
        "grad_norm": optax.tree.norm(grads),
    }
    return TrainState(factors, moments, state.step + 1), metrics


def to_numpy(factors: Factors) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(b `[out, r]`, a `[r, in]`) of each matrix, float32, on the host."""
    return {
        name: (np.asarray(f["b"], np.float32), np.asarray(f["a"], np.float32))
        for name, f in factors.items()
    }
