"""Gradient mutation: a few steps uphill on a random mix of the tasks' gradients.

Let `g_k` be the gradient of task k's loss by a child's coefficients, in units of their
singular values, and `|g|` its root mean square over the directions. A step moves the
child along

    d = sum_k w_k g_k / |g_k|,      w_active = 1, others w_k = |N(0, sigma^2)|

against `d` itself, or by Adam with `d` as the gradient. This is the branching step of
differentiable quality diversity (OMG-MEGA's `|c_0| grad f + sum_j c_j grad m_j` with
normalised gradients); here every measure is the score of another task, which is wanted
high, so all weights are positive.

Where there are only scores, evolution strategies estimate `g_k` from n antithetic pairs
of perturbations:

    g_k = 1 / (2 n std) sum_i (loss_k(x + std e_i) - loss_k(x - std e_i)) e_i

All of this is done for one child at a time, so no bit depends on the batch.

Sources: Fontaine and Nikolaidis, Differentiable Quality Diversity (arXiv 2106.03894);
Salimans et al., Evolution Strategies (arXiv 1703.03864).
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from qdax.custom_types import RNGKey


def draw_task_weights(
    key: RNGKey, num_tasks: int, active: int, *, sigma: float
) -> np.ndarray:
    """Draws the weights of the tasks' gradients.

    Args:
      key: one typed key; consumed.
      num_tasks: K.
      active: the active task, 0-based; its weight is 1.
      sigma: scale of the others.

    Returns:
      Float32 `[K]`, none negative.
    """
    others = np.abs(sigma * np.asarray(jax.random.normal(key, (num_tasks,))))
    return np.where(np.arange(num_tasks) == active, 1.0, others).astype(np.float32)


def draw_problems(
    key: RNGKey,
    train: Mapping[str, Sequence[str]],
    count: int,
    weights: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Draws problems of every task, without replacement.

    Args:
      key: one typed key; consumed.
      train: task name -> ids to draw from.
      count: problems per task; a task with fewer gives all.
      weights: task name -> a positive weight per id: ids are drawn one after the other,
        in proportion to the weights of those left. None draws with equal probability.

    Returns:
      task name -> ids.
    """
    found = {}
    for k, (task, ids) in enumerate(train.items()):
        own = jax.random.fold_in(key, k)
        if weights is None:
            order = np.asarray(jax.random.permutation(own, len(ids)))
        else:  # the largest of log w + Gumbel noise come first with these odds
            noise = np.asarray(jax.random.gumbel(own, (len(ids),)), np.float64)
            order = np.argsort(-(np.log(weights[task]) + noise), kind="stable")
        found[task] = tuple(ids[i] for i in order[:count])
    return found


def draw_perturbations(key: RNGKey, pairs: int, size: int) -> np.ndarray:
    """Draws `e`, standard normal, float32 `[pairs, size]`; consumes the key."""
    return np.asarray(jax.random.normal(key, (pairs, size)))


def estimated_slopes(
    losses: np.ndarray, perturbations: np.ndarray, *, std: float
) -> np.ndarray:
    """Gradients from antithetic pairs; deterministic.

    Args:
      losses: `[2 n, K]`: of `x + std e_1`, `x - std e_1`, `x + std e_2` and so on.
      perturbations: `e`, `[n, G]`.
      std: size of the perturbations.

    Returns:
      Float64 `[K, G]`.
    """
    differences = losses[0::2] - losses[1::2]  # [n, K]
    return (
        differences.T @ perturbations.astype(np.float64) / (2 * len(differences) * std)
    )


def mixed_slopes(
    slopes: np.ndarray, weights: np.ndarray, units: np.ndarray
) -> np.ndarray:
    """The mix `d` of the tasks' gradients; deterministic.

    Args:
      slopes: `g`, `[K, G]`, in units of singular values.
      weights: `w`, `[K]`.
      units: the singular values, `[G]`; directions of size 0 do not count in `|g|`.

    Returns:
      Float32 `[G]`. A gradient of 0 adds nothing.
    """
    count = max(np.count_nonzero(units), 1)
    total = np.zeros(units.shape)
    for slope, weight in zip(np.asarray(slopes, np.float64), weights, strict=True):
        size = np.sqrt(np.sum(slope**2) / count)
        if size > 0:
            total += float(weight) * slope / size
    return total.astype(np.float32)


def make_optimiser(name: str, rate: float) -> optax.GradientTransformation:
    """The rule of a step: "adam" or "normalised", with a learning rate."""
    return optax.adam(rate) if name == "adam" else optax.sgd(rate)


def ascend(
    coefficients: np.ndarray,
    state: optax.OptState,
    slope: np.ndarray,
    *,
    units: np.ndarray,
    optimiser: optax.GradientTransformation,
) -> tuple[np.ndarray, optax.OptState]:
    """One step of one genome; deterministic.

    Args:
      coefficients: `[G]`.
      state: of the optimiser; for the first step `optimiser.init(coefficients)`.
      slope: of the loss, float32 `[G]`, in units of singular values.
      units: the singular values, `[G]`.
      optimiser: from `make_optimiser`.

    Returns:
      The coefficients after the step, float32 `[G]`, and the optimiser's state.
    """
    change, state = optimiser.update(jnp.asarray(slope), state)
    return coefficients + units * np.asarray(change), state
