"""Proposing: from archives to the next children's genomes.

Child t is a function of the seed, t and the archives alone: it is the same whether it
is proposed alone or in a batch. Selection and variation are jit-compiled and vmapped
over the batch; between them the parents' genomes are looked up in the bank, on the
host, so that no program's shape depends on how full the bank is.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire
from qdax.custom_types import RNGKey

from cycleqd_jax.merging.forms import Basis, DiagonalBasis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.noise import noise_length
from cycleqd_jax.qd.archives import Archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.crossover import (
    FreeDraw,
    blend_shares,
    crossover_step,
    draw_free,
    draw_weights,
    free_shares,
    free_step,
)
from cycleqd_jax.qd.operators import check_children, load_operator
from cycleqd_jax.qd.schedule import active_archive, generation_keys
from cycleqd_jax.qd.selection import make_selector
from cycleqd_jax.qd.settings import QDSettings
from cycleqd_jax.qd.variation import add, mutate


class Proposal(NamedTuple):
    """P children, not yet evaluated.

    Attributes:
      genomes: `[P, G]` and `[P, E]` float32; with Gaussian mutation also `[P, N]`.
      parents: ids, int32 `[P, 2]`.
      weights: raw crossover weights, float32 `[P, 2]`; NaN if crossover is not linear.
      active: the archive each was bred from, int32 `[P]`.
    """

    genomes: Genome
    parents: np.ndarray
    weights: np.ndarray
    active: np.ndarray


def propose(
    archives: Archives,
    bank: Bank,
    basis: Basis,
    run_key: RNGKey,
    ts: Sequence[int],
    *,
    settings: QDSettings,
    experts: Sequence[int] | None = None,
) -> Proposal:
    """Breeds the children of generations `ts` from the archives as they are.

    Args:
      archives: every archive that is active in `ts` holds at least one elite.
      bank: holds the genomes of all elites.
      basis: of those genomes.
      run_key: one typed key, `jax.random.key(seed)`; each child uses keys folded
        from it and its t.
      ts: P generations, each >= 1.
      settings: of the search. Selection and crossover settings are static, so changing
        one recompiles.
      experts: of each task, its expert, 0-based, or -1 if it has none; by default task
        k has expert k.

    Raises:
      ValueError: there are no generations, one is below 1, or an active archive is
        empty.
      RunError: a user's operator returns NaN or infinity.
    """
    ts = np.asarray(ts, np.int32)
    if ts.ndim != 1 or ts.size == 0 or ts.min() < 1:
        raise ValueError(f"ts: expected generations from 1 on, got {ts.tolist()}.")
    active = active_archive(ts, archives.num_tasks, settings.flip_interval)
    for task in sorted(set(active.tolist())):
        if archives.ids(task).size == 0:
            raise ValueError(
                f"archives: expected an elite in archive {task}, which is active, but "
                "it is empty; insert the experts first."
            )
    parents, weights = jax.device_get(
        _draw_parents(
            archives.repertoires,
            run_key,
            ts,
            active,
            selection=settings.selection,
            alpha_low=settings.alpha_low,
            alpha_high=settings.alpha_high,
            crossover_mean=settings.crossover_mean,
            crossover_std=settings.crossover_std,
            is_linear=settings.crossover == "linear",
        )
    )
    length = noise_length(int(ts.max())) if settings.has_noise else None
    x1 = bank.gather(parents[:, 0], noise_length=length)
    x2 = bank.gather(parents[:, 1], noise_length=length)
    # A program of its own adds the step: fused with the product, its rounding would
    # depend on the size of the batch.
    if settings.crossover == "linear":
        children = add(x1, _crossover_steps(x1, x2, weights))
    elif settings.crossover == "free":
        children = add(x1, _free_steps(x1, x2, run_key, ts, basis))
    elif settings.crossover == "blend":
        children = add(x1, _blend_steps(x1, x2, basis))
    else:
        cross = load_operator("qd.crossover", settings.custom_crossover)
        children = _custom_crossover(x1, x2, run_key, ts, basis, cross=cross)
        check_children("qd.crossover", settings.custom_crossover, children, ts)
    own = active if experts is None else np.asarray(experts, np.int32)[active]
    children = mutate(children, run_key, ts, own, basis=basis, settings=settings)
    return Proposal(children, parents, weights, active.astype(np.int32))


@functools.partial(
    jax.jit,
    static_argnames=(
        "selection",
        "alpha_low",
        "alpha_high",
        "crossover_mean",
        "crossover_std",
        "is_linear",
    ),
)
def _draw_parents(
    repertoires: tuple[MapElitesRepertoire, ...],
    run_key: RNGKey,
    ts: jax.Array,
    active: jax.Array,
    *,
    selection: str,
    alpha_low: float,
    alpha_high: float,
    crossover_mean: float,
    crossover_std: float,
    is_linear: bool,
) -> tuple[jax.Array, jax.Array]:
    """Ids of the parents, int32 `[P, 2]`, and their raw crossover weights, `[P, 2]`.

    The weights are NaN where crossover is not linear and makes its own draws.
    """
    selector = make_selector(selection, alpha_low=alpha_low, alpha_high=alpha_high)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *repertoires)

    def draw(t: jax.Array, task: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = generation_keys(run_key, t)
        repertoire = jax.tree.map(lambda leaf: leaf[task], stacked)
        parents = selector.select(repertoire, keys.parents, 2).genotypes
        if not is_linear:
            return parents, jnp.full(2, jnp.nan)
        weights = draw_weights(keys.crossover, mean=crossover_mean, std=crossover_std)
        return parents, weights

    return jax.vmap(draw)(ts, active)


def _free_steps(
    x1: Genome, x2: Genome, run_key: RNGKey, ts: np.ndarray, basis: DiagonalBasis
) -> Genome:
    """The change of the first parents by free crossover, `[P, G]` and `[P, E]`."""
    draws = jax.device_get(_draw_free(run_key, ts, num_experts=basis.num_experts))
    experts_of = np.asarray(basis.experts_of)
    shares = [
        free_shares(x1[i], x2[i], FreeDraw(union, own), experts_of)
        for i, (union, own) in enumerate(zip(*draws, strict=True))
    ]
    return _free_step(x1, x2, np.stack(shares), experts_of)


def _blend_steps(x1: Genome, x2: Genome, basis: DiagonalBasis) -> Genome:
    """The change of the first parents by a blend, `[P, G]` and `[P, E]`."""
    experts_of = np.asarray(basis.experts_of)
    shares = [blend_shares(x1[i], x2[i], experts_of) for i in range(x1.scales.shape[0])]
    return _free_step(x1, x2, np.stack(shares), experts_of)


@functools.partial(jax.jit, static_argnames="num_experts")
def _draw_free(run_key: RNGKey, ts: jax.Array, *, num_experts: int) -> FreeDraw:
    """The draws of P children."""

    def draw(t: jax.Array) -> FreeDraw:
        return draw_free(generation_keys(run_key, t).crossover, num_experts)

    return jax.vmap(draw)(ts)


@functools.partial(jax.jit, static_argnames="cross")
def _custom_crossover(
    x1: Genome,
    x2: Genome,
    run_key: RNGKey,
    ts: jax.Array,
    basis: Basis,
    *,
    cross: Callable,
) -> Genome:
    """The children of a user-defined crossover, `[P, G]` and `[P, K]`."""

    def call(a: Genome, b: Genome, t: jax.Array) -> Genome:
        return cross(a, b, generation_keys(run_key, t).crossover, basis=basis)

    return jax.vmap(call)(x1, x2, ts)


_crossover_steps = jax.jit(crossover_step)
_free_step = jax.jit(free_step)
