"""Mutating a batch of children, by whichever operator the settings name.

All random draws of child t depend on the seed and t alone. A product and the sum that
it is added to are computed by two programs. In one program a compiler may fuse them,
which rounds once instead of twice, and it does so for some batch sizes only.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from qdax.custom_types import RNGKey

from cycleqd_jax.merging.core_basis import CoreBasis, CoreSlot
from cycleqd_jax.merging.forms import Basis, MatrixSlot
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.core_mutation import child_step, num_components
from cycleqd_jax.qd.mutation import draw_all_steps, draw_steps, mutation_step
from cycleqd_jax.qd.operators import check_children, load_operator
from cycleqd_jax.qd.schedule import generation_keys
from cycleqd_jax.qd.settings import QDSettings


def mutate(
    children: Genome,
    run_key: RNGKey,
    ts: np.ndarray,
    active: np.ndarray,
    *,
    basis: Basis,
    settings: QDSettings,
) -> Genome:
    """Mutates P children.

    Args:
      children: `[P, G]` and `[P, K]`; with Gaussian mutation also `[P, N]`.
      run_key: one typed key; each child uses the one folded from it and its t.
      ts: their generations, int32 `[P]`.
      active: the expert of each one's active task, int32 `[P]`; -1: it has none.
      basis: of the genomes.
      settings: of the search; its `mutation` and that operator's settings are used.
        Mutations that need gradients or scores are left to the search.

    Raises:
      ValueError: the operator needs genomes in core form, and they are not.
      RunError: a user's operator returns NaN or infinity.
    """
    if settings.mutation == "none" or settings.ascends:
        return children
    if settings.mutation == "gaussian":
        # A genome names its noise by t; the values are drawn when weights are made.
        return children.replace(noise=add(children.noise, _one_hot(children.noise, ts)))
    if settings.custom_mutation is not None:
        own = load_operator("qd.mutation", settings.custom_mutation)
        children = _custom_mutation(children, run_key, ts, active, basis, own=own)
        check_children("qd.mutation", settings.custom_mutation, children, ts)
        return children
    coefficients = children.coefficients
    if settings.mutation == "svd_all":
        stds = (settings.expert_std, settings.matrix_std, settings.direction_std)
        drawn = _draw_all_steps(run_key, ts, layout=basis.layout, stds=stds)
        steps = functools.reduce(add, drawn)
        moved = _scaled(steps, basis.singular_values)
        return children.replace(coefficients=add(coefficients, moved))
    if settings.needs_cores:
        if not isinstance(basis, CoreBasis):
            raise ValueError(
                f"basis: mutation {settings.mutation} expects one in core form; make "
                "it with core_basis."
            )
        size = num_components(basis.layout)
        steps = _draw_steps(run_key, ts, size=size, w_max=settings.w_max)
        moved = _child_steps(coefficients, steps, layout=basis.layout)
        if settings.mutation == "svd_scale":
            return children.replace(coefficients=moved)
        return children.replace(coefficients=add(coefficients, moved))
    moved = _svd_steps(
        run_key,
        ts,
        active,
        basis.singular_values,
        basis.experts_of,
        w_max=settings.w_max,
    )
    return children.replace(coefficients=add(coefficients, moved))


@jax.jit
def add(x: Genome, step: Genome) -> Genome:
    """`x + step`, leaf by leaf, as a program of its own."""
    return jax.tree.map(jnp.add, x, step)


@functools.partial(jax.jit, static_argnames=("size", "w_max"))
def _draw_steps(
    run_key: RNGKey, ts: jax.Array, *, size: int, w_max: float
) -> jax.Array:
    """Mutation steps `[P, size]`."""

    def draw(t: jax.Array) -> jax.Array:
        return draw_steps(generation_keys(run_key, t).mutation, size, w_max=w_max)

    return jax.vmap(draw)(ts)


@functools.partial(jax.jit, static_argnames=("layout", "stds"))
def _draw_all_steps(
    run_key: RNGKey,
    ts: jax.Array,
    *,
    layout: tuple[MatrixSlot, ...],
    stds: tuple[float, float, float],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three kinds of steps of `svd_all`, `[P, G]` each."""

    def draw(t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return draw_all_steps(generation_keys(run_key, t).mutation, layout, stds=stds)

    return jax.vmap(draw)(ts)


@jax.jit
def _scaled(steps: jax.Array, singular_values: jax.Array) -> jax.Array:
    """`w * s`, `[P, G]`."""
    return steps * singular_values


@functools.partial(jax.jit, static_argnames="w_max")
def _svd_steps(
    run_key: RNGKey,
    ts: jax.Array,
    active: jax.Array,
    singular_values: jax.Array,
    experts_of: jax.Array,
    *,
    w_max: float,
) -> jax.Array:
    """The change that SVD mutation makes, `[P, G]`."""
    steps = _draw_steps(run_key, ts, size=singular_values.shape[0], w_max=w_max)

    def step(by: jax.Array, expert: jax.Array) -> jax.Array:
        return mutation_step(
            by, active=expert, singular_values=singular_values, experts_of=experts_of
        )

    return jax.vmap(step)(steps, active)


@functools.partial(jax.jit, static_argnames="layout")
def _child_steps(
    coefficients: jax.Array, steps: jax.Array, *, layout: tuple[CoreSlot, ...]
) -> jax.Array:
    """The children after mutation along their own directions, `[P, G]`."""
    return jax.vmap(lambda c, by: child_step(c, by, layout))(coefficients, steps)


@jax.jit
def _one_hot(noise: jax.Array, ts: jax.Array) -> jax.Array:
    """1 at entry t - 1 of each row, like `noise`."""
    return jax.nn.one_hot(ts - 1, noise.shape[1], dtype=noise.dtype)


@functools.partial(jax.jit, static_argnames="own")
def _custom_mutation(
    children: Genome,
    run_key: RNGKey,
    ts: jax.Array,
    active: jax.Array,
    basis: Basis,
    *,
    own: Callable,
) -> Genome:
    def call(child: Genome, t: jax.Array, expert: jax.Array) -> Genome:
        key = generation_keys(run_key, t).mutation
        return own(child, key, active=expert, basis=basis)

    return jax.vmap(call)(children, ts, active)
