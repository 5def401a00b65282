"""The basis in core form, for operators that mix the experts' directions.

With all experts' directions side by side, `U = Q_u R_u` and `V = Q_v R_v`, every change
of a matrix that a `DiagonalBasis` can express is also

    W = W_base + Q_u M Q_v^T        M = R_u diag(c) R_v^T,  [Ru, Rv]

with orthonormal `Q_u`, `Q_v`. A genome then holds the cores `M` instead of the
diagonals `c`, which takes more memory. In return, the SVD of a child's task vector
follows from the SVD of its small core `M`; the mutation `svd_child` needs it. Crossover
is still the weighted mean. This form is ours, not the paper's.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.merging.forms import Basis, DiagonalBasis, Factors, float32_shape


@dataclasses.dataclass(frozen=True)
class CoreSlot:
    """The coefficients of one matrix.

    Its core is `coefficients[offset : offset + rows * columns]` of a genome, row by
    row.
    """

    name: str
    offset: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Number of coefficients, `Ru * Rv`."""
        return self.rows * self.columns


@flax.struct.dataclass
class CoreBasis(Basis):
    """The basis in core form: orthonormal directions that span those of K experts.

    Attributes:
      u: name -> `[out, Ru]`, Ru = min(out, K * r), orthonormal columns.
      v: name -> `[in, Rv]`, Rv = min(in, K * r), orthonormal columns.
      experts: `[K, G]` float32, the experts' own coefficients.
    """

    experts: jax.Array

    def expert_coefficients(self, expert: int) -> jax.Array:
        """The coefficients of one expert, `[G]`."""
        return self.experts[expert]

    def summed_coefficients(self) -> jax.Array:
        """The coefficients of the sum of all experts' task vectors, `[G]`."""
        return jnp.sum(self.experts, axis=0)

    @staticmethod
    def factors_of(u: jax.Array, v: jax.Array, coefficients: jax.Array) -> Factors:
        """`factors` from one matrix's `u` and `v`, for compiled programs."""
        core = coefficients.reshape(u.shape[1], v.shape[1])
        # Without HIGHEST a GPU or TPU would multiply in TF32 or bfloat16.
        return jnp.matmul(u, core, precision=jax.lax.Precision.HIGHEST), v


def core_basis(basis: DiagonalBasis) -> CoreBasis:
    """The core form of a basis; every expert has the same weights in both forms.

    Computed in float64 on the host.
    """
    values = np.asarray(basis.singular_values, np.float64)
    u, v, cores = {}, {}, []
    for slot in basis.layout:
        s = values[slot.offset : slot.offset + slot.size].reshape(-1, slot.rank)
        q_u, r_u = np.linalg.qr(np.asarray(basis.u[slot.name], np.float64))
        q_v, r_v = np.linalg.qr(np.asarray(basis.v[slot.name], np.float64))
        dtype = basis.u[slot.name].dtype
        u[slot.name] = jnp.asarray(q_u.astype(np.float32), dtype)
        v[slot.name] = jnp.asarray(q_v.astype(np.float32), dtype)
        count, rank = basis.num_experts, slot.rank
        left = r_u.reshape(-1, count, rank).swapaxes(0, 1) * s[:, None]  # [K, Ru, r]
        right = r_v.reshape(-1, count, rank).swapaxes(0, 1)  # [K, Rv, r]
        cores.append((left @ right.swapaxes(1, 2)).reshape(count, -1))  # [K, Ru * Rv]
    # np.concatenate refuses an empty list: experts may change no matrix.
    no_cores = np.zeros((basis.num_experts, 0))
    experts = np.concatenate([no_cores, *cores], axis=1)
    return core_shapes(basis).replace(
        u=u, v=v, experts=jnp.asarray(experts, np.float32)
    )


def core_shapes(basis: DiagonalBasis) -> CoreBasis:
    """A `CoreBasis` whose `u`, `v` and `experts` are `jax.ShapeDtypeStruct`s.

    Args:
      basis: the diagonal form or its shapes; the other fields are taken from it.
    """
    u, v, layout, offset = {}, {}, [], 0
    for slot in basis.layout:
        rows, columns = basis.u[slot.name].shape[0], basis.v[slot.name].shape[0]
        core = CoreSlot(
            slot.name, offset, min(rows, slot.size), min(columns, slot.size)
        )
        dtype = basis.u[slot.name].dtype
        u[slot.name] = jax.ShapeDtypeStruct((rows, core.rows), dtype)
        v[slot.name] = jax.ShapeDtypeStruct((columns, core.columns), dtype)
        layout.append(core)
        offset += core.size
    return CoreBasis(
        u=u,
        v=v,
        experts=float32_shape(basis.num_experts, offset),
        deltas=basis.deltas,
        residuals=basis.residuals,
        energy=basis.energy,
        energy_kept=basis.energy_kept,
        similarity=basis.similarity,
        layout=tuple(layout),
        expert_names=basis.expert_names,
    )
