"""The basis that experts of given shapes would make: shapes and dtypes, no numbers.

For planning before anything large is loaded. Leaves are `jax.ShapeDtypeStruct`s.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.merging.basis import Basis, MatrixSlot, Rank
from cycleqd_jax.merging.core_basis import AnyBasis, CoreBasis, CoreSlot
from cycleqd_jax.merging.task_vectors import whole_weights

Shapes = Mapping[str, tuple[int, ...]]


class ExpertShape(NamedTuple):
    """What an expert changes.

    Attributes:
      ranks: matrix -> the rank of its task vector, at most.
      vectors: names of the other parameters.
    """

    ranks: Mapping[str, int]
    vectors: frozenset[str]


def full_expert_shape(shapes: Shapes) -> ExpertShape:
    """A full fine-tune of a model with these weights: everything changes, fully."""
    return ExpertShape(
        {name: min(shape) for name, shape in shapes.items() if len(shape) == 2},
        frozenset(name for name, shape in shapes.items() if len(shape) != 2),
    )


def expert_shape(expert: Any, shapes: Shapes) -> ExpertShape:
    """What a loaded LoRA or full expert changes.

    Args:
      expert: see `task_vectors.iterate_task_vectors`.
      shapes: of the base model's weights.
    """
    whole = full_expert_shape({name: shapes[name] for name in whole_weights(expert)})
    factors = getattr(expert, "factors", None) or {}
    ranks = {
        name: min(*shapes[name], np.shape(factor.a)[0])
        for name, factor in factors.items()
    }
    return ExpertShape({**whole.ranks, **ranks}, whole.vectors)


def abstract_basis(
    shapes: Shapes,
    experts: Sequence[ExpertShape],
    rank: Rank = "full",
    *,
    residual: str = "drop",
    expert_names: Sequence[str],
) -> Basis:
    """The basis `compute_basis` would make, at most.

    Matrices that an expert turns out not to have changed make the real one smaller.

    Args:
      shapes: name -> shape of the base model's weights, matrices `[out, in]`.
      experts: K of them.
      rank: see `compute_basis`.
      residual: see `compute_basis`.
      expert_names: K names.
    """
    num_experts = len(experts)
    u, v, residuals, layout, offset = {}, {}, {}, [], 0
    for name in sorted(shapes):
        own = max((expert.ranks.get(name, 0) for expert in experts), default=0)
        if not own:
            continue
        rows, columns = shapes[name]
        kept = own if rank == "full" else min(rank, own)
        u[name] = _floats(rows, num_experts * kept)
        v[name] = _floats(columns, num_experts * kept)
        if residual == "keep" and kept < own:
            residuals[name] = _floats(num_experts, rows, columns)
        layout.append(MatrixSlot(name, offset, num_experts, kept))
        offset += layout[-1].size
    vectors = sorted(frozenset().union(*(expert.vectors for expert in experts)))
    return Basis(
        u=u,
        v=v,
        singular_values=_floats(offset),
        experts_of=jax.ShapeDtypeStruct((offset,), jnp.int32),
        deltas={name: _floats(num_experts, *shapes[name]) for name in vectors},
        residuals=residuals,
        energy=_floats(len(layout), num_experts),
        energy_kept=_floats(len(layout), num_experts),
        similarity=_floats(num_experts, num_experts),
        layout=tuple(layout),
        expert_names=tuple(expert_names),
    )


def abstract_core_basis(basis: Basis) -> CoreBasis:
    """The core form of a basis; `basis` may be abstract."""
    u, v, layout, offset = {}, {}, [], 0
    for slot in basis.layout:
        rows, columns = basis.u[slot.name].shape[0], basis.v[slot.name].shape[0]
        core = min(rows, slot.size), min(columns, slot.size)
        u[slot.name], v[slot.name] = _floats(rows, core[0]), _floats(columns, core[1])
        layout.append(CoreSlot(slot.name, offset, *core))
        offset += layout[-1].size
    return CoreBasis(
        u=u,
        v=v,
        experts=_floats(basis.num_experts, offset),
        deltas=basis.deltas,
        residuals=basis.residuals,
        energy=basis.energy,
        energy_kept=basis.energy_kept,
        similarity=basis.similarity,
        layout=tuple(layout),
        expert_names=basis.expert_names,
    )


def basis_bytes(basis: AnyBasis) -> int:
    """Bytes of all arrays of a basis, abstract or not."""
    leaves = jax.tree.leaves(basis)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
