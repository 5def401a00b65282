"""Proposing: from archives to the next children's genomes.

Child t is a function of the seed, t and the archives alone: it is the same whether it
is proposed alone or in a batch. Selection and variation are jit-compiled and vmapped
over the batch; between them the parents' genomes are looked up in the bank, on the
host, so that no program's shape depends on how full the bank is.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire
from qdax.custom_types import RNGKey

from cycleqd_jax.merging.basis import Basis
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.qd.archives import Archives
from cycleqd_jax.qd.bank import Bank
from cycleqd_jax.qd.crossover import crossover_step, draw_weights
from cycleqd_jax.qd.mutation import draw_steps, mutation_step
from cycleqd_jax.qd.schedule import active_archive, generation_keys
from cycleqd_jax.qd.selection import EliteSelector


@dataclasses.dataclass(frozen=True)
class ProposeSettings:
    """Settings of selection, crossover and mutation; defaults are the paper's.

    Attributes:
      flip_interval: generations an archive stays active, >= 1.
      selection: "elite".
      alpha_low: see `EliteSelector`; > 0.
      alpha_high: see `EliteSelector`; >= alpha_low.
      crossover_mean: mean of a raw crossover weight, > 0.
      crossover_std: its standard deviation, 0 to 0.2 of the mean.
      mutation: "svd" or "none".
      w_max: largest mutation step, as a share of a singular value, >= 0.

    Raises:
      ValueError: a value is not allowed.
    """

    flip_interval: int = 1
    selection: str = "elite"
    alpha_low: float = 0.5
    alpha_high: float = 0.8
    crossover_mean: float = 1.0
    crossover_std: float = 0.03
    mutation: str = "svd"
    w_max: float = 0.3

    def __post_init__(self) -> None:
        checks = {
            "flip_interval": (self.flip_interval >= 1, "at least 1"),
            "selection": (self.selection == "elite", '"elite"'),
            "alpha_low": (self.alpha_low > 0, "above 0"),
            "alpha_high": (self.alpha_high >= self.alpha_low, "at least alpha_low"),
            "crossover_mean": (self.crossover_mean > 0, "above 0"),
            "crossover_std": (
                0 <= self.crossover_std <= 0.2 * self.crossover_mean,
                "0 to 0.2 times crossover_mean",
            ),
            "mutation": (self.mutation in ("svd", "none"), '"svd" or "none"'),
            "w_max": (self.w_max >= 0, "at least 0"),
        }
        for name, (allowed, expected) in checks.items():
            if not allowed:
                raise ValueError(
                    f"{name}: expected {expected}, got {getattr(self, name)!r}."
                )


class Proposal(NamedTuple):
    """P children, not yet evaluated.

    Attributes:
      genomes: `[P, G]` and `[P, K]` float32.
      parents: ids, int32 `[P, 2]`.
      weights: raw crossover weights, float32 `[P, 2]`.
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
    settings: ProposeSettings,
) -> Proposal:
    """Breeds the children of generations `ts` from the archives as they are.

    Args:
      archives: every archive that is active in `ts` holds at least one elite.
      bank: holds the genomes of all elites.
      basis: of those genomes.
      run_key: one typed key, `jax.random.key(seed)`; each child uses keys folded
        from it and its t.
      ts: P generations, each >= 1.
      settings: of the operators; compiled into the programs.

    Raises:
      ValueError: there are no generations, one is below 1, or an active archive is
        empty.
    """
    ts = np.asarray(ts, np.int32)
    if ts.ndim != 1 or ts.size == 0 or ts.min() < 1:
        raise ValueError(f"ts: expected generations from 1 on, got {ts.tolist()}.")
    active = active_archive(ts, archives.num_tasks, settings.flip_interval)
    for task in sorted(set(active.tolist())):
        if archives.ids(task).size == 0:
            raise ValueError(f"archive {task} is empty; offer the experts first.")
    parents = np.asarray(
        _select_parents(archives.repertoires, run_key, ts, active, settings=settings)
    )
    x1, x2 = bank.gather(parents[:, 0]), bank.gather(parents[:, 1])
    weights, steps = _draw(run_key, ts, size=basis.genome_size, settings=settings)
    children = _add(
        x1,
        *_variation_steps(
            x1, x2, weights, steps, active, basis.singular_values, basis.experts_of
        ),
    )
    return Proposal(children, parents, np.asarray(weights), active.astype(np.int32))


@functools.partial(jax.jit, static_argnames="settings")
def _select_parents(
    repertoires: tuple[MapElitesRepertoire, ...],
    run_key: RNGKey,
    ts: jax.Array,
    active: jax.Array,
    *,
    settings: ProposeSettings,
) -> jax.Array:
    """Ids of the parents, int32 `[P, 2]`."""
    selector = EliteSelector(settings.alpha_low, settings.alpha_high)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *repertoires)

    def select(t: jax.Array, task: jax.Array) -> jax.Array:
        repertoire = jax.tree.map(lambda leaf: leaf[task], stacked)
        key = generation_keys(run_key, t).parents
        return selector.select(repertoire, key, 2).genotypes

    return jax.vmap(select)(ts, active)


@functools.partial(jax.jit, static_argnames=("size", "settings"))
def _draw(
    run_key: RNGKey, ts: jax.Array, *, size: int, settings: ProposeSettings
) -> tuple[jax.Array, jax.Array]:
    """Raw crossover weights `[P, 2]` and mutation steps `[P, G]`."""
    w_max = settings.w_max if settings.mutation == "svd" else 0.0

    def draw(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = generation_keys(run_key, t)
        mean, std = settings.crossover_mean, settings.crossover_std
        weights = draw_weights(keys.crossover, mean=mean, std=std)
        return weights, draw_steps(keys.mutation, size, w_max=w_max)

    return jax.vmap(draw)(ts)


@jax.jit
def _variation_steps(
    x1: Genome,
    x2: Genome,
    weights: jax.Array,
    steps: jax.Array,
    active: jax.Array,
    singular_values: jax.Array,
    experts_of: jax.Array,
) -> tuple[Genome, jax.Array]:
    """What crossover and mutation add to the first parents."""

    def step(a: Genome, b: Genome, w: jax.Array, by: jax.Array, task: jax.Array):
        mutation = mutation_step(
            by, active=task, singular_values=singular_values, experts_of=experts_of
        )
        return crossover_step(a, b, w), mutation

    return jax.vmap(step)(x1, x2, weights, steps, active)


# A program of its own: inside one, a compiler may fuse a product into a sum, which
# rounds once instead of twice, and does so for some batch sizes and not for others.
@jax.jit
def _add(x1: Genome, crossover: Genome, mutation: jax.Array) -> Genome:
    children = jax.tree.map(jnp.add, x1, crossover)
    return children.replace(coefficients=children.coefficients + mutation)
