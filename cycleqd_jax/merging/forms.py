"""The form of a basis: which arrays it holds, with which shapes.

For each matrix that an expert changes, the basis holds the SVDs of all K experts' task
vectors side by side:

    W = W_base + sum_k U_k diag(c_k) V_k^T      (expert k itself: c_k = s_k)

For every other changed parameter it holds the K differences from the base.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.merging.task_vectors import whole_weights
from cycleqd_jax.models.base import matrix_shape

Factors = tuple[jax.Array, jax.Array]  # left, right
DEFAULT_SETTINGS = BasisSettings()


@dataclasses.dataclass(frozen=True)
class MatrixSlot:
    """The coefficients and directions of one matrix.

    The coefficients are `coefficients[offset : offset + R]` of a genome, R = K * r.
    They and the columns of `u` and `v` have one order: expert after expert, and for
    each expert from the largest singular value to the smallest.
    """

    name: str
    offset: int
    num_experts: int
    rank: int

    @property
    def size(self) -> int:
        """R, the number of coefficients and of directions."""
        return self.num_experts * self.rank

    def columns(self, expert: int) -> slice:
        """The slice of the R directions that belongs to one expert."""
        return slice(expert * self.rank, (expert + 1) * self.rank)


@flax.struct.dataclass
class Basis:
    """The parent of both forms of a basis, `DiagonalBasis` and `CoreBasis`; a pytree.

    Letters: K experts, M matrices, G coefficients of a genome.

    Attributes:
      u: name -> the directions on the output side of each matrix, as columns; float32,
        or the dtype of the model.
      v: name -> those on its input side, likewise.
      deltas: name -> `[K, ...]` float32, the experts' differences from the base in
        parameters other than matrices.
      residuals: name -> `[K, out, in]`, in the dtype of `u`, the part of each expert's
        task vector beyond the rank, scaled like `deltas`; empty unless residuals are
        kept.
      energy: `[M, K]` float32, squared Frobenius norm of each matrix task vector.
      energy_kept: `[M, K]` float32, the share of it inside the basis, 0-1.
      similarity: `[K, K]` float32, mean over matrices of the cosine between two
        experts' singular values; of all of them, whatever the rank. Those that a random
        subspace did not find count as if they were alike.
      layout: one slot per matrix, sorted by name; static.
      expert_names: K names; static.
    """

    u: dict[str, jax.Array]
    v: dict[str, jax.Array]
    deltas: dict[str, jax.Array]
    residuals: dict[str, jax.Array]
    energy: jax.Array
    energy_kept: jax.Array
    similarity: jax.Array
    layout: tuple[Any, ...] = flax.struct.field(pytree_node=False)
    expert_names: tuple[str, ...] = flax.struct.field(pytree_node=False)

    @property
    def num_experts(self) -> int:
        """K."""
        return len(self.expert_names)

    @property
    def genome_size(self) -> int:
        """G, the number of coefficients of a genome."""
        # Slots are contiguous.
        return self.layout[-1].offset + self.layout[-1].size if self.layout else 0

    def factors(self, name: str, coefficients: jax.Array) -> Factors:
        """`left [out, n]` and `right [in, n]`; the matrix changes by `left right^T`.

        Args:
          name: of the matrix.
          coefficients: the matrix's part of a genome.
        """
        return self.factors_of(self.u[name], self.v[name], coefficients)

    def expert_coefficients(self, expert: int) -> jax.Array:
        """The coefficients of one expert, `[G]`."""
        raise NotImplementedError

    def summed_coefficients(self) -> jax.Array:
        """The coefficients of the sum of all experts' task vectors, `[G]`."""
        raise NotImplementedError

    @staticmethod
    def factors_of(u: jax.Array, v: jax.Array, coefficients: jax.Array) -> Factors:
        """`factors` from one matrix's `u` and `v`, for compiled programs."""
        raise NotImplementedError


@flax.struct.dataclass
class DiagonalBasis(Basis):
    """The basis in diagonal form: directions of K experts, expert after expert.

    Attributes:
      u: name -> `[out, R]`, R = K * r in the order of `MatrixSlot`; zero columns pad
        experts of lower rank.
      v: name -> `[in, R]`.
      singular_values: `[G]` float32, in the order of `layout`.
      experts_of: `[G]` int32, the expert that each coefficient belongs to.
    """

    singular_values: jax.Array
    experts_of: jax.Array

    def expert_coefficients(self, expert: int) -> jax.Array:
        """The coefficients of one expert, `[G]`: its singular values, else zero."""
        return jnp.where(self.experts_of == expert, self.singular_values, 0.0)

    def summed_coefficients(self) -> jax.Array:
        """The coefficients of the sum of all experts' task vectors, `[G]`."""
        return self.singular_values

    @staticmethod
    def factors_of(u: jax.Array, v: jax.Array, coefficients: jax.Array) -> Factors:
        """`factors` from one matrix's `u` and `v`, for compiled programs."""
        return u * coefficients, v


def basis_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    experts: Sequence[Any | None],
    settings: BasisSettings = DEFAULT_SETTINGS,
    *,
    expert_names: Sequence[str],
    dtype: str = "float32",
) -> DiagonalBasis:
    """The shapes of the largest basis that `compute_basis` can return.

    It returns a smaller one if experts do not change some of their parameters.

    Args:
      shapes: name -> shape of the base model's weights.
      experts: as for `compute_basis`; only names and shapes are read. None is an
        unknown expert that changes every parameter at full rank.
      settings: see `compute_basis`.
      expert_names: K names.
      dtype: of directions and residuals.

    Returns:
      A basis of `jax.ShapeDtypeStruct`s.
    """
    shapes = {name: matrix_shape(shape) or shape for name, shape in shapes.items()}
    most: dict[str, int] = {}  # the largest rank; 0 for parameters other than matrices
    for expert in experts:
        whole = shapes if expert is None else whole_weights(expert)
        own = {n: min(shapes[n]) if len(shapes[n]) == 2 else 0 for n in whole}
        for name, factor in (getattr(expert, "factors", None) or {}).items():
            own[name] = min(*shapes[name], factor.a.shape[0])
        most = {n: max(own.get(n, 0), most.get(n, 0)) for n in own | most}
    limit = math.inf if settings.rank == "full" else settings.rank
    kept = {name: min(rank, limit) for name, rank in most.items()}
    keep_rest = settings.residual == "keep"
    return shapes_and_layout(
        {name: shapes[name] for name in most},
        {name: r for name, r in kept.items() if r},
        [name for name in most if keep_rest and kept[name] < most[name]],
        expert_names,
        dtype,
    )


def shapes_and_layout(
    shapes: Mapping[str, tuple[int, ...]],
    ranks: Mapping[str, int],
    residuals: Iterable[str],
    expert_names: Sequence[str],
    dtype: str = "float32",
) -> DiagonalBasis:
    """A basis of shapes and its layout.

    Args:
      shapes: of every changed parameter.
      ranks: r of every changed matrix.
      residuals: names of the matrices with a part beyond their rank.
      expert_names: K names.
      dtype: of directions and residuals.
    """
    count, layout, offset = len(expert_names), [], 0
    for name in sorted(ranks):
        layout.append(MatrixSlot(name, offset, count, ranks[name]))
        offset += layout[-1].size

    def side(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

    return DiagonalBasis(
        u={s.name: side(shapes[s.name][0], s.size) for s in layout},
        v={s.name: side(shapes[s.name][1], s.size) for s in layout},
        singular_values=float32_shape(offset),
        experts_of=jax.ShapeDtypeStruct((offset,), jnp.int32),
        deltas={
            name: float32_shape(count, *shapes[name])
            for name in sorted(shapes.keys() - ranks.keys())
        },
        residuals={n: side(count, *shapes[n]) for n in sorted(residuals)},
        energy=float32_shape(len(layout), count),
        energy_kept=float32_shape(len(layout), count),
        similarity=float32_shape(count, count),
        layout=tuple(layout),
        expert_names=tuple(expert_names),
    )


def float32_shape(*shape: int) -> jax.ShapeDtypeStruct:
    """The shape of a float32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)
