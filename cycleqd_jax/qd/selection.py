"""Elite selection: parents in proportion to how good they are at everything.

An elite's weight is the product over all its K scores f (quality and behaviours) of

    alpha_low + (f - f_min) / (f_max - f_min) * (alpha_high - alpha_low)

with f_min and f_max over the archive's elites; a score that is equal for all of them
contributes 1. Two different parents are drawn without replacement, the second in
proportion to the remaining weights; a single elite is both parents.

Source: CycleQD (arXiv 2410.14735), elite sampling. The published code instead computes
`alpha_low + (f - f_min) * alpha_high / (f_max - f_min)`, on bin indices.
"""

import dataclasses

import jax
import jax.numpy as jnp
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire
from qdax.core.emitters.repertoire_selectors.selector import Selector
from qdax.custom_types import RNGKey

from cycleqd_jax.qd.archives import SCORES


@dataclasses.dataclass(frozen=True)
class EliteSelector(Selector):
    """The rule above as a QDax selector whose rows 2i and 2i + 1 are a pair.

    Attributes:
      alpha_low: factor of the lowest score, > 0.
      alpha_high: factor of the highest score, >= alpha_low.
    """

    alpha_low: float = 0.5
    alpha_high: float = 0.8

    def select(
        self, repertoire: MapElitesRepertoire, key: RNGKey, num_samples: int
    ) -> MapElitesRepertoire:
        """Draws `num_samples / 2` pairs of parents.

        Args:
          repertoire: an archive with at least one elite and all K scores as extra
            scores; where it is empty the result is undefined.
          key: one typed key; consumed. A single pair uses it unsplit.
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
        weights = elite_weights(
            repertoire, alpha_low=self.alpha_low, alpha_high=self.alpha_high
        )
        pairs = num_samples // 2
        keys = key[None] if pairs == 1 else jax.random.split(key, pairs)
        cells = jax.vmap(lambda one: draw_pair(weights, one))(keys).reshape(-1)
        return jax.tree.map(lambda leaf: leaf[cells], repertoire)


def elite_weights(
    repertoire: MapElitesRepertoire, *, alpha_low: float, alpha_high: float
) -> jax.Array:
    """The weight of every cell: float32 `[C]`, 0 where it is empty."""
    present = repertoire.fitnesses[:, 0] > -jnp.inf  # [C]
    scores = repertoire.extra_scores[SCORES]  # [C, K]
    weights = present.astype(jnp.float32)
    for column in scores.T:
        low = jnp.min(jnp.where(present, column, jnp.inf))
        high = jnp.max(jnp.where(present, column, -jnp.inf))
        width = jnp.where(high > low, high - low, 1.0)
        factor = alpha_low + (column - low) / width * (alpha_high - alpha_low)
        weights = weights * jnp.where(high > low, factor, 1.0)
    return weights


def draw_pair(weights: jax.Array, key: RNGKey) -> jax.Array:
    """Two different cells, drawn one after the other in proportion to the weights.

    The two largest of `log weight + Gumbel noise` have exactly that distribution.

    Args:
      weights: `[C]`, >= 0; cells of weight 0 are never drawn.
      key: one typed key; consumed.

    Returns:
      int32 `[2]`; twice the same cell if only one has a weight.
    """
    perturbed = jnp.log(weights) + jax.random.gumbel(key, weights.shape)  # -inf: never
    first = jnp.argmax(perturbed)
    rest = perturbed.at[first].set(-jnp.inf)
    second = jnp.where(jnp.max(rest) > -jnp.inf, jnp.argmax(rest), first)
    return jnp.stack([first, second]).astype(jnp.int32)
