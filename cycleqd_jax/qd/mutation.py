"""SVD mutation: a random part of the active task's expert, component by component.

Every matrix gets `U diag(w * s) V^T` added, where `U, s, V` is the SVD of the active
expert's task vector and `w ~ Uniform[0, w_max]` independently for each component. In
genomes: `c += w * s` on the active expert's coefficients. Parameters that are no
matrix do not mutate.

Source: CycleQD (arXiv 2410.14735), SVD-based mutation.
"""

import jax
import jax.numpy as jnp
from qdax.custom_types import RNGKey

from cycleqd_jax.merging.genome import Genome


def svd_mutation(
    genome: Genome,
    key: RNGKey,
    *,
    active: jax.Array | int,
    singular_values: jax.Array,
    experts_of: jax.Array,
    w_max: float,
) -> Genome:
    """Mutates one genome; `draw_steps`, then `apply_svd_mutation`.

    Args:
      genome: one genome, `[G]` and `[K]`.
      key: one typed key; consumed.
      active: the active task, 0-based, int32 `[]`.
      singular_values: `Basis.singular_values`, `[G]`.
      experts_of: `Basis.experts_of`, `[G]`.
      w_max: largest step, as a share of a component's singular value, >= 0.
    """
    steps = draw_steps(key, singular_values.shape[0], w_max=w_max)
    return apply_svd_mutation(
        genome,
        steps,
        active=active,
        singular_values=singular_values,
        experts_of=experts_of,
    )


def draw_steps(key: RNGKey, size: int, *, w_max: float) -> jax.Array:
    """One step per coefficient, `w ~ Uniform[0, w_max]`, float32 `[size]`.

    Consumes the key. Coefficients of other experts get a step too; it is not used.
    """
    return jax.random.uniform(key, (size,), maxval=w_max)


def apply_svd_mutation(
    genome: Genome,
    steps: jax.Array,
    *,
    active: jax.Array | int,
    singular_values: jax.Array,
    experts_of: jax.Array,
) -> Genome:
    """Adds `steps * singular_values` to the active expert's coefficients.

    Deterministic; arguments as for `svd_mutation`, with `steps` `[G]`.
    """
    step = mutation_step(
        steps, active=active, singular_values=singular_values, experts_of=experts_of
    )
    return genome.replace(coefficients=genome.coefficients + step)


def mutation_step(
    steps: jax.Array,
    *,
    active: jax.Array | int,
    singular_values: jax.Array,
    experts_of: jax.Array,
) -> jax.Array:
    """What `apply_svd_mutation` adds to the coefficients, `[G]`."""
    return jnp.where(experts_of == active, steps * singular_values, 0.0)
