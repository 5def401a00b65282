"""Element-wise merges: TIES and DARE, which no genome can say.

A recipe acts on single elements of the task vectors, as they were trained, so that its
result has no low rank. It is evaluated from whole weights, which are made one parameter
at a time. Every parameter is treated alike, norms and biases too:

    ties       trim each task vector to its largest elements, then merge by sign
    dare       drop elements at random, scale the rest up, then add (DARE linear)
    dare_ties  drop elements at random, scale the rest up, then merge by sign
    slerp      go along the arc between two experts' whole weights

To merge by sign, each element takes the sign of the sum over experts, and the mean of
the experts that agree with it (disjoint mean), or their sum. With weights, each task
vector is multiplied by its own first, and the mean is weighted. Trimming is per
parameter, as in mergekit and PEFT; the authors of TIES trim the whole model at once.

Sources: TIES, Yadav et al. (arXiv 2306.01708); DARE, Yu et al. (arXiv 2311.03099).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cycleqd_jax.merging.individuals import Recipe
from cycleqd_jax.merging.task_vectors import Weights, task_vector
from cycleqd_jax.models.validated import cast

_PARALLEL = 0.9995  # a cosine beyond which an arc is a line


class MergedWeights(Mapping):
    """The weights that a recipe makes of the experts; computed one by one on access.

    name -> array in the base's dtype, on the host. Parameters that no expert changes
    are the base's own arrays. All experts' task vectors of one parameter are in memory
    at a time, in float64.
    """

    def __init__(
        self, base_weights: Weights, experts: Mapping[str, Any], recipe: Recipe
    ):
        """Takes the base's weights, the experts by name, in order, and the recipe.

        Args:
          base_weights: name -> array.
          experts: name -> expert, see `iterate_task_vectors`; their order decides which
            elements DARE drops of each.
          recipe: the merge. Its draws come from `key(seed)`, folded with the place of
            the parameter among the sorted names and that of the expert.
        """
        self._base_weights = base_weights
        self._experts = experts
        self._recipe = recipe
        self._places = {name: i for i, name in enumerate(sorted(base_weights))}

    def __getitem__(self, name: str) -> np.ndarray:
        base, recipe = np.asarray(self._base_weights[name]), self._recipe
        key = jax.random.fold_in(jax.random.key(recipe.seed), self._places[name])
        deltas, weights = [], []
        shares = recipe.weights or (1.0,) * len(self._experts)
        for k, (expert_name, expert) in enumerate(self._experts.items()):
            delta = task_vector(self._base_weights, expert, name, expert_name)
            if delta is not None:
                own = jax.random.fold_in(key, k)
                deltas.append(_thinned(delta.dense(), recipe, own))
                weights.append(shares[k])
            elif recipe.method == "slerp":
                deltas.append(np.zeros(base.shape))
        if not weights:
            return base
        every = np.stack(deltas)
        if recipe.method == "slerp":
            merged = _along_arc(base, every, recipe)
        elif recipe.method == "dare":
            merged = np.sum(_weighted(every, weights), axis=0)
        else:
            merged = merge_by_sign(every, weights, normalise=recipe.normalise)
        tuned = base.astype(np.float64) + recipe.factor * merged
        return cast(tuned, base.dtype, f"{recipe.method}: {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._base_weights)

    def __len__(self) -> int:
        return len(self._base_weights)


def trim(delta: np.ndarray, density: float) -> np.ndarray:
    """The task vector with all but its largest elements set to zero.

    Args:
      delta: float64, any shape.
      density: share of the elements that stay, 0-1; at least one stays, and so do those
        as large as the smallest that stays.
    """
    size = np.abs(delta)
    keep = max(int(density * delta.size), 1)
    least = np.partition(size, delta.size - keep, axis=None)[delta.size - keep]
    return np.where(size >= least, delta, 0.0)


def drop(delta: np.ndarray, density: float, key: jax.Array) -> np.ndarray:
    """The task vector with elements set to zero at random, the rest times 1 / density.

    Args:
      delta: float64, any shape.
      density: probability that an element stays, 0-1.
      key: one typed key; consumed.
    """
    kept = np.asarray(jax.random.bernoulli(key, density, delta.shape))
    return np.where(kept, delta / density, 0.0)


def merge_by_sign(
    deltas: np.ndarray,
    weights: Sequence[float] | None = None,
    *,
    normalise: bool = True,
) -> np.ndarray:
    """The mean, element by element, of the values that have the sign of their sum.

    Zeros do not count. A sum of zero counts as positive, as in mergekit and PEFT.

    Args:
      deltas: float64 `[K, ...]`, the experts' task vectors of one parameter.
      weights: K factors of the task vectors; None stands for 1 each. The mean is
        weighted by them.
      normalise: False gives the sum instead of the mean.
    """
    shares = np.ones(len(deltas)) if weights is None else np.asarray(weights)
    weighted = _weighted(deltas, shares)
    sign = np.where(weighted.sum(axis=0) >= 0, 1.0, -1.0)
    agree = np.sign(weighted) == sign
    total = np.sum(weighted, axis=0, where=agree)
    if not normalise:
        return total
    divisor = np.sum(_weighted(np.ones(deltas.shape), shares), axis=0, where=agree)
    return total / np.where(divisor == 0, 1.0, divisor)


def _weighted(deltas: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    return deltas * np.reshape(weights, (-1, *(1,) * (deltas.ndim - 1)))


def slerp(one: np.ndarray, two: np.ndarray, share: float) -> np.ndarray:
    """Spherical linear interpolation of two arrays, each taken as one vector.

    Nearly parallel ones (a cosine beyond +-0.9995, as in mergekit) are interpolated
    linearly, and so is a zero.

    Source: Shoemake, "Animating rotation with quaternion curves" (SIGGRAPH 1985).

    Args:
      one: float64, any shape.
      two: likewise.
      share: 0 gives `one`, 1 gives `two`.
    """
    norms = np.linalg.norm(one) * np.linalg.norm(two)
    cosine = np.vdot(one, two) / norms if norms > 0 else 1.0
    if abs(cosine) > _PARALLEL:
        return (1 - share) * one + share * two
    angle = np.arccos(cosine)
    shares = np.sin([(1 - share) * angle, share * angle]) / np.sin(angle)
    return shares[0] * one + shares[1] * two


def _along_arc(base: np.ndarray, deltas: np.ndarray, recipe: Recipe) -> np.ndarray:
    """The task vector of the two experts' whole weights, interpolated."""
    if len(deltas) != 2:
        raise ValueError(f"slerp: expected 2 experts, got {len(deltas)}.")
    whole = base.astype(np.float64)
    share = 0.5 if recipe.weights is None else recipe.weights[1]
    return slerp(whole + deltas[0], whole + deltas[1], share) - whole


def _thinned(delta: np.ndarray, recipe: Recipe, key: jax.Array) -> np.ndarray:
    if recipe.method == "slerp":
        return delta
    if recipe.method == "ties":
        return trim(delta, recipe.density)
    return drop(delta, recipe.density, key)
