"""From genome to plain weights, on the device.

    W = W_base + left right^T + sum_k a_k residual_k      matrices
    p = p_base + sum_k a_k delta_k                        all other parameters

and to each of them the Gaussian noise that the genome names. `left` and `right` are the
directions of the basis, scaled by the genome's coefficients. Sums are computed in
float32 and cast once to the dtype of the base weight.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.merging.forms import Basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.noise import NoiseSource, summed_noise
from cycleqd_jax.models.sharding import put

_HIGHEST = jax.lax.Precision.HIGHEST  # else a GPU multiplies in TF32, a TPU in bfloat16


def materialise(
    base_weights: dict[str, jax.Array],
    basis: Basis,
    genome: Genome,
    noise: NoiseSource | None = None,
    *,
    into: Mapping[str, jax.Array] | None = None,
) -> dict[str, jax.Array]:
    """The weights of one individual.

    Args:
      base_weights: name -> array; best kept on the device between calls. Not changed.
      basis: made from these base weights.
      genome: one genome, `[G]` and `[K]`.
      noise: source of the genome's Gaussian noise, if it has any.
      into: the result of an earlier call that is no longer needed. Its memory is
        overwritten, which is faster than new memory.

    Returns:
      name -> array like `base_weights`. Parameters that the basis does not change are
      the same objects as in `base_weights`, not copies.

    Raises:
      ValueError: the genome has another size than the basis, or noise but no source of
        it, or the base lacks a parameter of the basis.
    """
    changed = sorted([*basis.u, *basis.deltas])
    missing = [name for name in changed if name not in base_weights]
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
    own = split_coefficients(basis, genome)
    weights = dict(base_weights)
    for name in changed:
        old = None if into is None else into[name]
        weights[name] = _changed(
            base_weights[name], basis, name, own.get(name), genome.scales, old
        )
    if genome.noise is None or not np.any(np.asarray(genome.noise)):
        return weights
    if noise is None:
        raise ValueError("noise: expected its source, as the genome has some.")
    for index, name in enumerate(sorted(base_weights)):
        added = summed_noise(noise, genome, index, base_weights[name].shape)
        place = getattr(base_weights[name], "sharding", None)
        if place is not None and not place.is_fully_addressable:
            added = put(added, place)  # every process draws all of it
        # Computed again in float32, so that the sum with the noise is rounded once.
        exact = jnp.asarray(base_weights[name]).astype(jnp.float32)
        if name in changed:
            exact = _changed(exact, basis, name, own.get(name), genome.scales)
        weights[name] = _cast_sum(exact, added, base_weights[name].dtype)
    return weights


def split_coefficients(basis: Basis, genome: Genome) -> dict[str, jax.Array]:
    """A genome's coefficients by matrix.

    In diagonal form these are the `c [R]` of a layer in factored form,
    `y = x W_base^T + ((x V) * c) U^T`.

    Args:
      basis: the basis.
      genome: one genome or a batch, `[..., G]`.

    Returns:
      name -> `[..., size of the matrix's slot]`.
    """
    return {
        slot.name: genome.coefficients[..., slot.offset : slot.offset + slot.size]
        for slot in basis.layout
    }


def low_rank_factors(
    basis: Basis, genome: Genome
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """One genome as low-rank factors, like those of a LoRA adapter.

    Residuals and noise are left out, as they have no low rank.

    Returns:
      name of the matrix -> `(b [out, R], a [R, in])`, float32; `b @ a` is what the
      genome adds to it.
    """
    factors = {}
    for name, own in split_coefficients(basis, genome).items():
        left, right = basis.factors(name, own)
        b, a = np.asarray(left, np.float32), np.asarray(right.T, np.float32)
        factors[name] = (b, np.ascontiguousarray(a))
    return factors


def _changed(
    base: jax.Array,
    basis: Basis,
    name: str,
    coefficients: jax.Array | None,
    scales: jax.Array,
    old: jax.Array | None = None,
) -> jax.Array:
    if coefficients is None:
        return _changed_vector(base, basis.deltas[name], scales)
    return change_matrix(
        base,
        (basis.u[name], basis.v[name], coefficients),
        basis.residuals.get(name),
        scales,
        old,
        factors=basis.factors_of,
    )


# One small program per shape instead of one for the whole model: a transformer has
# hundreds of matrices, but only a handful of shapes to compile.
@jax.jit(static_argnames="factors", donate_argnames="old", keep_unused=True)
def change_matrix(
    base: jax.Array,
    change: tuple[jax.Array, jax.Array, jax.Array],
    residuals: jax.Array | None,
    scales: jax.Array,
    old: jax.Array | None,
    *,
    factors: Callable,
) -> jax.Array:
    """`base + left right^T + sum_k scales_k residuals_k`; overwrites `old`.

    Shapes are `[out, in]`, `[out, R]`, `[in, R]`, `[K]` and `[K, out, in]`; a kernel
    `[out, ...]` changes by the matrix `[out, in]` that it is when flattened.
    """
    left, right = factors(*change)
    delta = jnp.matmul(left, right.T, precision=_HIGHEST)
    if residuals is not None:
        delta = delta + jnp.tensordot(scales, residuals, axes=1, precision=_HIGHEST)
    delta = delta.reshape(base.shape)
    return (base.astype(jnp.float32) + delta).astype(base.dtype)


@jax.jit
def _changed_vector(base: jax.Array, deltas: jax.Array, scales: jax.Array) -> jax.Array:
    """`base + sum_k scales_k deltas_k` for `[...]`, `[K, ...]`, `[K]`."""
    delta = jnp.tensordot(scales, deltas, axes=1, precision=_HIGHEST)
    return (base.astype(jnp.float32) + delta).astype(base.dtype)


@jax.jit(static_argnames="dtype")
def _cast_sum(weight: jax.Array, noise: jax.Array, dtype) -> jax.Array:
    return (weight + noise).astype(dtype)
