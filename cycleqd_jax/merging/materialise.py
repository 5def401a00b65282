"""From genome to plain weights, on the device.

    W = W_base + left right^T + sum_k a_k residual_k      matrices
    p = p_base + sum_k a_k delta_k                        all other parameters

and to each of them the Gaussian noise that the genome names. `left` and `right` are the
genome's coefficients put to the directions of its basis. Sums are made in float32 and
cast once to the dtype of the base weight.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.merging.core_basis import AnyBasis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.noise import NoiseSource, summed_noise

_HIGHEST = jax.lax.Precision.HIGHEST  # else a GPU multiplies in TF32, a TPU in bfloat16


def materialise(
    base_weights: dict[str, jax.Array],
    basis: AnyBasis,
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
      noise: where the genome's Gaussian noise comes from, if it has any.
      into: weights of another individual that this function gave and nobody needs any
        more; their memory is used again, which spares the system clearing new pages.

    Returns:
      name -> array like `base_weights`. Parameters that nothing changes are the same
      objects as in `base_weights`, not copies.

    Raises:
      ValueError: the genome has another size than the basis, or noise of unknown
        source, or the base lacks a parameter of the basis.
    """
    touched = touched_weights(base_weights, basis, genome, into=into)
    weights = {**base_weights, **touched}
    if genome.noise is None or not np.any(np.asarray(genome.noise)):
        return weights
    if noise is None:
        raise ValueError("noise: expected its source, as the genome has some.")
    own, changed = split_coefficients(basis, genome), set(touched_names(basis))
    for index, name in enumerate(sorted(base_weights)):
        added = summed_noise(noise, genome, index, base_weights[name].shape)
        # In float32 up to here, so that the sum is rounded once.
        exact = jnp.asarray(base_weights[name]).astype(jnp.float32)
        if name in changed:
            exact = _touched(exact, basis, name, own.get(name), genome.scales)
        weights[name] = _cast_sum(exact, added, base_weights[name].dtype)
    return weights


def touched_weights(
    base_weights: dict[str, jax.Array],
    basis: AnyBasis,
    genome: Genome,
    *,
    into: Mapping[str, jax.Array] | None = None,
) -> dict[str, jax.Array]:
    """Only those weights of one individual that its basis changes, without noise.

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
    own = split_coefficients(basis, genome)
    return {
        name: _touched(
            base_weights[name],
            basis,
            name,
            own.get(name),
            genome.scales,
            None if into is None else into[name],
        )
        for name in names
    }


def touched_names(basis: AnyBasis) -> tuple[str, ...]:
    """Names of all parameters that some genome of this basis changes, sorted."""
    return tuple(sorted([*basis.u, *basis.deltas]))


def split_coefficients(basis: AnyBasis, genome: Genome) -> dict[str, jax.Array]:
    """A genome's coefficients per matrix.

    In diagonal form they serve the factored form of a layer,
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
    basis: AnyBasis, genome: Genome
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
        factors[name] = (np.asarray(left), np.ascontiguousarray(np.asarray(right).T))
    return factors


def _touched(
    base: jax.Array,
    basis: AnyBasis,
    name: str,
    coefficients: jax.Array | None,
    scales: jax.Array,
    old: jax.Array | None = None,
) -> jax.Array:
    if coefficients is None:
        return _changed_vector(base, basis.deltas[name], scales)
    change = (basis.u[name], basis.v[name], coefficients)
    factors = basis.factors_of
    if name not in basis.residuals:
        return _changed_matrix(base, change, old, factors=factors)
    residuals = basis.residuals[name]
    return _changed_with_rest(base, change, residuals, scales, old, factors=factors)


# One small program per shape, not one for the whole model: a Llama has hundreds of
# matrices but only a handful of shapes to compile.
@jax.jit(static_argnames="factors", donate_argnames="old", keep_unused=True)
def _changed_matrix(base: jax.Array, change, old, *, factors: Callable) -> jax.Array:
    """`base + left right^T`: `[out, in]`, `[out, R]`, `[in, R]`; `old` is written."""
    left, right = factors(*change)
    delta = jnp.matmul(left, right.T, precision=_HIGHEST)
    return (base.astype(jnp.float32) + delta).astype(base.dtype)


@jax.jit(static_argnames="factors", donate_argnames="old", keep_unused=True)
def _changed_with_rest(
    base: jax.Array,
    change,
    residuals: jax.Array,
    scales: jax.Array,
    old,
    *,
    factors: Callable,
) -> jax.Array:
    """The same with `sum_k scales_k residuals_k` added, `[K]` and `[K, out, in]`."""
    left, right = factors(*change)
    delta = jnp.matmul(left, right.T, precision=_HIGHEST)
    delta = delta + jnp.tensordot(scales, residuals, axes=1, precision=_HIGHEST)
    return (base.astype(jnp.float32) + delta).astype(base.dtype)


@jax.jit
def _changed_vector(base: jax.Array, deltas: jax.Array, scales: jax.Array) -> jax.Array:
    """`base + sum_k scales_k deltas_k` for `[...]`, `[K, ...]`, `[K]`."""
    delta = jnp.tensordot(scales, deltas, axes=1, precision=_HIGHEST)
    return (base.astype(jnp.float32) + delta).astype(base.dtype)


@jax.jit(static_argnames="dtype")
def _cast_sum(weight: jax.Array, noise: jax.Array, dtype) -> jax.Array:
    return (weight + noise).astype(dtype)
