"""Computes the spectral basis: the directions along which individuals are expressed.

Of every matrix that an expert changes it takes the SVDs of all K experts' task vectors,
of every other changed parameter the K differences from the base (`forms.py`). An
individual is then one coefficient per direction and one scalar per expert
(`genome.py`). Every operator of the method is linear in task vectors, so on these
numbers it is exact.

Source: CycleQD (arXiv 2410.14735), section on SVD-based mutation; the genome is ours.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.blocks import Block, batches, decompose, is_alone
from cycleqd_jax.merging.conditioning import (
    Grams,
    condition_by_inputs,
    condition_by_themselves,
)
from cycleqd_jax.merging.forms import DEFAULT_SETTINGS, DiagonalBasis, shapes_and_layout
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.merging.task_vectors import (
    ParameterDeltas,
    Weights,
    iterate_task_vectors,
)


def compute_basis(
    base_weights: Weights,
    experts: Sequence[Any],
    settings: BasisSettings = DEFAULT_SETTINGS,
    *,
    expert_names: Sequence[str] | None = None,
    layers: Iterable[Mapping[str, Grams]] | None = None,
    dtype: str = "float32",
) -> DiagonalBasis:
    """The basis of a base model and its experts; slow, done once per set of experts.

    Beside the basis, one task vector of one parameter is in memory at a time, or a
    batch of at most a quarter of a gigabyte.

    Args:
      base_weights: name -> array, matrices `[out, in]`.
      experts: LoRA or full experts in archive order, see `iterate_task_vectors`. Their
        arrays may be read from disk on access; each is accessed once.
      settings: conditioning, rank, and what is done with the components beyond it.
      expert_names: K names; "0", "1", ... by default.
      layers: Gram matrices of the linear layers' inputs, for conditioning "regmean";
        see `condition_by_inputs`.
      dtype: of directions and residuals, "float32" or "bfloat16"; everything else is in
        float32.

    Returns:
      The basis. LoRA factors and small matrices are decomposed in float64 on the host,
      large dense ones in float32 on the accelerator.

    Raises:
      BadInputError: an expert does not fit the base (see `iterate_task_vectors`), no
        expert differs from it, a task vector is beyond the range of float32, or a sum
        of Gram matrices is singular.
    """
    names = tuple(str(k) for k in range(len(experts)))
    names = names if expert_names is None else tuple(expert_names)
    rows = conditioned_task_vectors(base_weights, experts, settings, names, layers)
    return build_basis(rows, names, settings, dtype)


def conditioned_task_vectors(
    base_weights: Weights,
    experts: Sequence[Any],
    settings: BasisSettings,
    expert_names: Sequence[str],
    layers: Iterable[Mapping[str, Grams]] | None = None,
) -> Iterator[ParameterDeltas]:
    """The first half of `compute_basis`, which has the same arguments and errors."""
    rows = iterate_task_vectors(
        base_weights, experts, expert_names, settings.host_below
    )
    if settings.conditioning == "regmean":
        return condition_by_inputs(rows, layers, settings)
    if settings.conditioning == "data_free":
        return condition_by_themselves(rows, settings)
    return rows


def build_basis(
    task_vectors: Iterable[ParameterDeltas],
    expert_names: Sequence[str],
    settings: BasisSettings = DEFAULT_SETTINGS,
    dtype: str = "float32",
) -> DiagonalBasis:
    """The basis of given task vectors; the second half of `compute_basis`.

    Args:
      task_vectors: one entry per parameter, from `iterate_task_vectors` or a step after
        it. Parameters that no expert changes are left out of the basis.
      expert_names: K names.
      settings: see `compute_basis`.
      dtype: likewise.

    Raises:
      BadInputError: no expert differs from the base.
    """
    found = decompose(batches(task_vectors, alone=is_alone(settings)), settings, dtype)
    blocks = itertools.chain.from_iterable(own for _, own in found)
    return assemble(blocks, expert_names, dtype)


def assemble(
    blocks: Iterable[Block], expert_names: Sequence[str], dtype: str = "float32"
) -> DiagonalBasis:
    """The basis that consists of these blocks.

    Args:
      blocks: in any order.
      expert_names: K names.
      dtype: of their directions and residuals.

    Raises:
      BadInputError: there are none, as no expert differs from the base.
    """
    ordered = sorted(blocks, key=lambda block: block.name)
    blocks = [block for block in ordered if block.delta is None]
    deltas = {block.name: block.delta for block in ordered if block.delta is not None}
    if not ordered:
        raise BadInputError(
            "experts: none of them differs from the base model, so there is nothing "
            "to merge; check the expert folders."
        )
    num_experts = len(expert_names)
    ranks = {block.name: block.u.shape[1] // num_experts for block in blocks}
    owners = [np.repeat(np.arange(num_experts), r) for r in ranks.values()]
    values = [block.values[:, : ranks[block.name]].ravel() for block in blocks]
    shapes = shapes_and_layout(
        {b.name: (b.u.shape[0], b.v.shape[0]) for b in blocks}
        | {name: array.shape[1:] for name, array in deltas.items()},
        ranks,
        [b.name for b in blocks if b.residual is not None],
        expert_names,
        dtype,
    )
    return shapes.replace(
        u={b.name: b.u for b in blocks},
        v={b.name: b.v for b in blocks},
        singular_values=_concatenate(values, np.float32),
        experts_of=_concatenate(owners, np.int32),
        deltas=deltas,
        residuals={b.name: b.residual for b in blocks if b.residual is not None},
        energy=_stack([b.energy for b in blocks], num_experts),
        energy_kept=_stack([b.kept for b in blocks], num_experts),
        similarity=_mean_cosines([b.values for b in blocks], num_experts),
    )


def _concatenate(parts: list[np.ndarray], dtype: Any) -> jax.Array:
    return jnp.asarray(np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype))


def _stack(parts: list[np.ndarray], num_experts: int) -> jax.Array:
    return jnp.asarray(np.asarray(parts).reshape(len(parts), num_experts), jnp.float32)


def _mean_cosines(values: list[np.ndarray], num_experts: int) -> jax.Array:
    """Mean over matrices of the cosines between the rows of each, `[K, r]`.

    A matrix that only one of two experts changes counts as 0. A matrix that neither
    changes does not count.
    """
    total, count = np.zeros((2, num_experts, num_experts))
    for s in values:
        lengths = np.linalg.norm(s, axis=1)
        unit = s / np.where(lengths > 0, lengths, 1)[:, None]
        total += unit @ unit.T
        count += (lengths[:, None] > 0) | (lengths > 0)
    return jnp.asarray(total / np.maximum(count, 1), jnp.float32)
