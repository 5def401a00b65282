"""From genome to plain weights, on the device.

    W = W_base + U diag(c) V^T        matrices
    p = p_base + sum_k a_k delta_k    all other parameters

Sums are made in float32 and cast once to the dtype of the base weight.
"""

import jax
import jax.numpy as jnp

from cycleqd_jax.merging.basis import Basis
from cycleqd_jax.merging.genome import Genome


def materialise(
    base_weights: dict[str, jax.Array], basis: Basis, genome: Genome
) -> dict[str, jax.Array]:
    """The weights of one individual.

    Args:
      base_weights: name -> array; best kept on the device between calls. Not changed.
      basis: made from these base weights.
      genome: one genome, `[G]` and `[K]`.

    Returns:
      name -> array like `base_weights`. Parameters no expert changes are the same
      objects as in `base_weights`, not copies.

    Raises:
      ValueError: the genome has another size than the basis, or the base lacks a
        parameter of the basis.
    """
    return {**base_weights, **touched_weights(base_weights, basis, genome)}


def touched_weights(
    base_weights: dict[str, jax.Array], basis: Basis, genome: Genome
) -> dict[str, jax.Array]:
    """Only those weights of one individual that may differ from the base.

    Computed by jit-compiled programs, one per shape of matrix.

    `jax.vmap(touched_weights, in_axes=(None, None, 0))` makes those of P individuals.
    Arguments and errors as for `materialise`.
    """
    names = touched_names(basis)
    missing = [name for name in names if name not in base_weights]
    if missing:
        raise ValueError(
            f"base_weights: expected the parameter {missing[0]} of the basis, but it "
            "is not there; the basis was made from another base model."
        )
    sizes = (genome.coefficients.shape, genome.scales.shape)
    if sizes != ((basis.genome_size,), (basis.num_experts,)):
        raise ValueError(
            f"genome: expected shapes [{basis.genome_size}] and [{basis.num_experts}] "
            f"as in the basis, got {list(sizes[0])} and {list(sizes[1])}."
        )
    weights = {
        name: _changed_matrix(base_weights[name], basis.u[name], basis.v[name], c)
        for name, c in split_coefficients(basis, genome).items()
    }
    for name, deltas in basis.deltas.items():
        weights[name] = _changed_vector(base_weights[name], deltas, genome.scales)
    return weights


def touched_names(basis: Basis) -> tuple[str, ...]:
    """Names of all parameters that some genome of this basis changes, sorted."""
    return tuple(sorted([*basis.u, *basis.deltas]))


def split_coefficients(basis: Basis, genome: Genome) -> dict[str, jax.Array]:
    """A genome's coefficients per matrix, for the factored form of a layer.

    `y = x W_base^T + ((x V) * c) U^T`, with `U`, `V` reshaped to `[out or in, K * r]`.

    Args:
      basis: the basis.
      genome: one genome or a batch, `[..., G]`.

    Returns:
      name -> `[..., K * r]`.
    """
    return {
        slot.name: genome.coefficients[..., slot.offset : slot.offset + slot.size]
        for slot in basis.layout
    }


# One small program per shape, not one for the whole model: a Llama has hundreds of
# matrices but only a handful of shapes to compile.
@jax.jit
def _changed_matrix(
    base: jax.Array, u: jax.Array, v: jax.Array, coefficients: jax.Array
) -> jax.Array:
    """`base + u diag(c) v^T`: `[out, in]`, `[out, K, r]`, `[in, K, r]`, `[K * r]`."""
    u = u.reshape(u.shape[0], -1)
    v = v.reshape(v.shape[0], -1)
    # Without HIGHEST a GPU or TPU would multiply in TF32 or bfloat16.
    delta = jnp.matmul(u * coefficients, v.T, precision=jax.lax.Precision.HIGHEST)
    return (base.astype(jnp.float32) + delta).astype(base.dtype)


@jax.jit
def _changed_vector(base: jax.Array, deltas: jax.Array, scales: jax.Array) -> jax.Array:
    """`base + sum_k scales_k deltas_k` for `[...]`, `[K, ...]`, `[K]`."""
    highest = jax.lax.Precision.HIGHEST
    delta = jnp.tensordot(scales, deltas, axes=1, precision=highest)
    return (base.astype(jnp.float32) + delta).astype(base.dtype)
