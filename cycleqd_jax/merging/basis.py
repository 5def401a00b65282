"""The spectral basis: the directions along which every individual is written.

Each matrix that an expert changes gets the thin SVDs of all K experts' task vectors,
side by side:

    W = W_base + sum_k U_k diag(c_k) V_k^T      (expert k itself: c_k = s_k)

and every other changed parameter the K differences themselves. An individual is then
the coefficients `c` and one scalar per expert (`genome.py`); every operator of the
method is linear in task vectors, so it acts on these numbers exactly.

Source: CycleQD (arXiv 2410.14735), section on SVD-based mutation; the genome is ours.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.svd import ThinSVD, own_rank, thin_svd
from cycleqd_jax.merging.task_vectors import (
    ParameterDeltas,
    Weights,
    iterate_task_vectors,
)

Rank = int | Literal["full"]


@dataclasses.dataclass(frozen=True)
class MatrixSlot:
    """Where one matrix's coefficients lie in a genome.

    They are `coefficients[offset : offset + num_experts * rank]`, expert after
    expert, the largest singular value of each first.
    """

    name: str
    offset: int
    num_experts: int
    rank: int

    @property
    def size(self) -> int:
        """Number of coefficients, `K * r`."""
        return self.num_experts * self.rank


class EnergyRow(NamedTuple):
    """How much of one expert's task vector of one matrix the basis keeps.

    Attributes:
      name: the matrix.
      expert: the expert's name.
      energy: squared Frobenius norm of the task vector.
      kept: share of it that the basis keeps, 0-1.
    """

    name: str
    expert: str
    energy: float
    kept: float


@flax.struct.dataclass
class Basis:
    """Directions of K experts; a pytree whose layout is static.

    Letters: K experts, M matrices, G coefficients (the sum of K * r over matrices).

    Attributes:
      u: name -> `[out, K, r]` float32; zero columns pad experts of lower rank.
      v: name -> `[in, K, r]` float32.
      singular_values: `[G]` float32, in the order of `layout`.
      experts_of: `[G]` int32, the expert each coefficient belongs to.
      deltas: name -> `[K, ...]` float32: differences of parameters that are no matrix.
      energy: `[M, K]` float32, squared Frobenius norm of each matrix task vector.
      energy_kept: `[M, K]` float32, the share of it inside the basis, 0-1.
      layout: one slot per matrix, sorted by name; static.
      expert_names: K names; static.
    """

    u: dict[str, jax.Array]
    v: dict[str, jax.Array]
    singular_values: jax.Array
    experts_of: jax.Array
    deltas: dict[str, jax.Array]
    energy: jax.Array
    energy_kept: jax.Array
    layout: tuple[MatrixSlot, ...] = flax.struct.field(pytree_node=False)
    expert_names: tuple[str, ...] = flax.struct.field(pytree_node=False)

    @property
    def num_experts(self) -> int:
        """K."""
        return len(self.expert_names)

    @property
    def genome_size(self) -> int:
        """G, the number of coefficients of a genome."""
        return sum(slot.size for slot in self.layout)

    @property
    def max_rank(self) -> int:
        """The largest rank r of any matrix; 0 without matrices."""
        return max((slot.rank for slot in self.layout), default=0)

    def energy_report(self) -> list[EnergyRow]:
        """The matrices and experts that the basis keeps only in part.

        Empty for a full-rank basis. An expert that loses much is a changed expert and
        should be scored again as its genome.
        """
        energy, kept = np.asarray(self.energy), np.asarray(self.energy_kept)
        return [
            EnergyRow(slot.name, expert, float(energy[i, k]), float(kept[i, k]))
            for i, slot in enumerate(self.layout)
            for k, expert in enumerate(self.expert_names)
            if kept[i, k] < 1.0
        ]

    def expert_energy_kept(self) -> dict[str, float]:
        """Per expert, the share of its matrix task vectors' energy that is kept."""
        energy = np.asarray(self.energy, np.float64)
        kept = energy * np.asarray(self.energy_kept, np.float64)
        total = energy.sum(axis=0)
        shares = np.where(
            total > 0, kept.sum(axis=0) / np.where(total > 0, total, 1), 1
        )
        return dict(zip(self.expert_names, shares.tolist(), strict=True))


def compute_basis(
    base_weights: Weights,
    experts: Sequence[Any],
    rank: Rank = "full",
    *,
    expert_names: Sequence[str] | None = None,
) -> Basis:
    """The basis of a base model and its experts; slow, done once per set of experts.

    Args:
      base_weights: name -> array, matrices `[out, in]`.
      experts: LoRA or full experts in archive order, see `iterate_task_vectors`.
      rank: components kept per expert and matrix, or "full": each expert's own rank,
        which is exact.
      expert_names: K names; "0", "1", ... by default.

    Returns:
      The basis. Computed in float64 on the host, stored in float32.

    Raises:
      BadInputError: an expert does not fit the base (see `iterate_task_vectors`), no
        expert differs from it, or the rank is below 1.
    """
    names = tuple(str(k) for k in range(len(experts)))
    names = names if expert_names is None else tuple(expert_names)
    return build_basis(iterate_task_vectors(base_weights, experts, names), names, rank)


def build_basis(
    task_vectors: Iterable[ParameterDeltas],
    expert_names: Sequence[str],
    rank: Rank = "full",
) -> Basis:
    """The basis of given task vectors; the second half of `compute_basis`.

    Args:
      task_vectors: one entry per changed parameter, from `iterate_task_vectors` or a
        step after it.
      expert_names: K names.
      rank: see `compute_basis`.

    Raises:
      BadInputError: no expert differs from the base, or the rank is below 1.
    """
    if rank != "full" and (isinstance(rank, bool) or not isinstance(rank, int)):
        raise BadInputError(f'rank: expected "full" or a whole number, got {rank!r}.')
    if rank != "full" and rank < 1:
        raise BadInputError(f"rank: expected at least 1, got {rank}.")
    rows = sorted(task_vectors, key=lambda row: row.name)
    if not rows:
        raise BadInputError(
            "experts: none of them differs from the base model, so there is nothing "
            "to merge; check the expert folders."
        )
    blocks = [_matrix_block(row, rank) for row in rows if row.is_matrix]
    layout, offset = [], 0
    for block in blocks:
        num_experts, block_rank = block.s.shape
        layout.append(MatrixSlot(block.name, offset, num_experts, block_rank))
        offset += num_experts * block_rank
    owners = [np.repeat(np.arange(b.s.shape[0]), b.s.shape[1]) for b in blocks]
    num_experts = len(expert_names)
    return Basis(
        u={b.name: jnp.asarray(b.u, jnp.float32) for b in blocks},
        v={b.name: jnp.asarray(b.v, jnp.float32) for b in blocks},
        singular_values=_concatenate([b.s.ravel() for b in blocks], np.float32),
        experts_of=_concatenate(owners, np.int32),
        deltas={r.name: _stack_deltas(r) for r in rows if not r.is_matrix},
        energy=_stack([b.energy for b in blocks], num_experts),
        energy_kept=_stack([b.kept for b in blocks], num_experts),
        layout=tuple(layout),
        expert_names=tuple(expert_names),
    )


class _MatrixBlock(NamedTuple):
    name: str
    u: np.ndarray  # [out, K, r] float32
    v: np.ndarray  # [in, K, r] float32
    s: np.ndarray  # [K, r] float64
    energy: np.ndarray  # [K] float64
    kept: np.ndarray  # [K] float64


def _matrix_block(row: ParameterDeltas, rank: Rank) -> _MatrixBlock:
    """Decomposes one matrix for all experts and pads to the largest rank."""
    num_experts = len(row.deltas)
    ranks = [0 if d is None else own_rank(d) for d in row.deltas]
    width = max(ranks) if rank == "full" else min(rank, max(ranks))
    rows, columns = row.shape
    u = np.zeros((rows, num_experts, width), np.float32)
    v = np.zeros((columns, num_experts, width), np.float32)
    s = np.zeros((num_experts, width))
    energy, kept = np.zeros(num_experts), np.ones(num_experts)
    for k, delta in enumerate(row.deltas):
        if delta is None:
            continue
        svd: ThinSVD = thin_svd(delta)
        keep = min(width, svd.s.size)
        u[:, k, :keep] = svd.u[:, :keep]
        v[:, k, :keep] = svd.v[:, :keep]
        s[k, :keep] = svd.s[:keep]
        energy[k] = np.sum(svd.s**2)
        if keep < svd.s.size and energy[k] > 0:
            kept[k] = np.sum(svd.s[:keep] ** 2) / energy[k]
    return _MatrixBlock(row.name, u, v, s, energy, kept)


def _stack_deltas(row: ParameterDeltas) -> jax.Array:
    zero = np.zeros(row.shape)
    dense = [zero if delta is None else delta.dense() for delta in row.deltas]
    return jnp.asarray(np.stack(dense), jnp.float32)


def _concatenate(parts: list[np.ndarray], dtype: Any) -> jax.Array:
    return jnp.asarray(np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype))


def _stack(parts: list[np.ndarray], num_experts: int) -> jax.Array:
    return jnp.asarray(np.asarray(parts).reshape(len(parts), num_experts), jnp.float32)
