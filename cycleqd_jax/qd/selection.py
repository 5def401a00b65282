"""Parent selection: which two elites of an archive are crossed.

`elite` is the paper's rule. The weight of an elite is the product, over all its K
scores f (quality and behaviours), of

    alpha_low + (f - f_min) / (f_max - f_min) * (alpha_high - alpha_low)

where f_min and f_max are the extremes over the archive's elites. A score that is equal
for all elites contributes 1. Where retention is a behaviour, it counts as one more
score. `elite_ref` is the rule of the published code. Its factor is

    alpha_low + (f - f_min) / (f_max - f_min) * alpha_high

and for behaviours f is the bin index instead of the score. `random` gives all elites
the same weight.

Two different parents are drawn without replacement: the second in proportion to the
weights of the elites that remain. A single elite is both parents.

Source: CycleQD (arXiv 2410.14735), elite sampling; SakanaAI/CycleQD for `elite_ref`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire
from qdax.core.emitters.repertoire_selectors.selector import Selector
from qdax.custom_types import RNGKey

from cycleqd_jax.qd.archives import SCORES


@dataclasses.dataclass(frozen=True)
class PairSelector(Selector):
    """A QDax selector whose rows 2i and 2i + 1 are a pair of parents."""

    def weights(self, repertoire: MapElitesRepertoire) -> jax.Array:
        """The weight of every cell: float32 `[C]`, 0 where it is empty."""
        raise NotImplementedError

    def select(
        self, repertoire: MapElitesRepertoire, key: RNGKey, num_samples: int
    ) -> MapElitesRepertoire:
        """Draws `num_samples / 2` pairs of parents.

        Args:
          repertoire: an archive with all K scores as extra scores. It must have an
            elite, else the result is undefined.
          key: one typed key; consumed. It is split only for several pairs.
          num_samples: an even number.

        Returns:
          A repertoire of `num_samples` rows.

        Raises:
          ValueError: `num_samples` is odd or below 2.
        """
        if num_samples < 2 or num_samples % 2:
            raise ValueError(
                f"num_samples: expected an even number of rows, two for each pair, got "
                f"{num_samples}."
            )
        weights = self.weights(repertoire)
        pairs = num_samples // 2
        keys = key[None] if pairs == 1 else jax.random.split(key, pairs)
        cells = jax.vmap(lambda one: draw_pair(weights, one))(keys).reshape(-1)
        return jax.tree.map(lambda leaf: leaf[cells], repertoire)


@dataclasses.dataclass(frozen=True)
class EliteSelector(PairSelector):
    """The paper's rule.

    Attributes:
      alpha_low: factor of the lowest score, > 0.
      alpha_high: factor of the highest score, >= alpha_low.
    """

    alpha_low: float = 0.5
    alpha_high: float = 0.8

    def weights(self, repertoire: MapElitesRepertoire) -> jax.Array:
        """See `PairSelector.weights`."""
        scores = repertoire.extra_scores[SCORES]  # [C, K], or with retention K + 1
        width = self.alpha_high - self.alpha_low
        return _product(repertoire, scores, self.alpha_low, width)


@dataclasses.dataclass(frozen=True)
class EliteRefSelector(PairSelector):
    """The published code's rule.

    Attributes:
      alpha_low: factor of the lowest value, > 0.
      alpha_high: added to that for the highest value, >= 0.
    """

    alpha_low: float = 0.5
    alpha_high: float = 0.8

    def weights(self, repertoire: MapElitesRepertoire) -> jax.Array:
        """See `PairSelector.weights`."""
        # Descriptors are the bin indices of all other tasks, and of retention.
        values = [repertoire.fitnesses, repertoire.descriptors]
        values = jnp.concatenate(values, axis=1)  # [C, K]
        return _product(repertoire, values, self.alpha_low, self.alpha_high)


@dataclasses.dataclass(frozen=True)
class RandomSelector(PairSelector):
    """The same weight for all elites."""

    def weights(self, repertoire: MapElitesRepertoire) -> jax.Array:
        """See `PairSelector.weights`."""
        return _present(repertoire).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class WeightSelector(PairSelector):
    """The first extra score is the weight; for searches that rank by themselves."""

    def weights(self, repertoire: MapElitesRepertoire) -> jax.Array:
        """See `PairSelector.weights`."""
        weights = repertoire.extra_scores[SCORES][:, 0]
        return jnp.where(_present(repertoire), weights, 0.0)


def make_selector(name: str, *, alpha_low: float, alpha_high: float) -> PairSelector:
    """The selector that a setting names.

    Raises:
      ValueError: the name is not "elite", "elite_ref", "random" or "weight".
    """
    if name in ("random", "weight"):
        return RandomSelector() if name == "random" else WeightSelector()
    kinds = {"elite": EliteSelector, "elite_ref": EliteRefSelector}
    if name not in kinds:
        raise ValueError(
            f"selection: expected elite, elite_ref or random, got {name!r}."
        )
    return kinds[name](alpha_low, alpha_high)


def _present(repertoire: MapElitesRepertoire) -> jax.Array:
    return repertoire.fitnesses[:, 0] > -jnp.inf  # [C]


def _product(
    repertoire: MapElitesRepertoire, values: jax.Array, lowest: float, width: float
) -> jax.Array:
    """Per cell the product of `lowest + width * (scaled value)` over its K values."""
    present = _present(repertoire)
    weights = present.astype(jnp.float32)
    for column in values.T:
        low = jnp.min(jnp.where(present, column, jnp.inf))
        high = jnp.max(jnp.where(present, column, -jnp.inf))
        span = jnp.where(high > low, high - low, 1.0)
        # Empty cells have a fitness of -inf, and 0 * inf would be NaN.
        scaled = jnp.where(present, column - low, 0.0) / span
        weights = weights * jnp.where(high > low, lowest + scaled * width, 1.0)
    return weights


def draw_pair(weights: jax.Array, key: RNGKey) -> jax.Array:
    """Draws two different cells, one after the other in proportion to the weights.

    The two largest values of `log(weight) + Gumbel noise` have this distribution.

    Args:
      weights: `[C]`, >= 0; cells of weight 0 are never drawn.
      key: one typed key; consumed.

    Returns:
      Int32 `[2]`; the same cell twice if only one has a weight above 0.
    """
    perturbed = jnp.log(weights) + jax.random.gumbel(key, weights.shape)  # -inf: never
    first = jnp.argmax(perturbed)
    rest = perturbed.at[first].set(-jnp.inf)
    second = jnp.where(jnp.max(rest) > -jnp.inf, jnp.argmax(rest), first)
    return jnp.stack([first, second]).astype(jnp.int32)
