"""Computes the spectral basis: the directions along which individuals are expressed.

Of every matrix that an expert changes it takes the SVDs of all K experts' task vectors,
of every other changed parameter the K differences from the base (`forms.py`). An
individual is then one coefficient per direction and one scalar per expert
(`genome.py`). Every operator of the method is linear in task vectors, so on these
numbers it is exact.

Source: CycleQD (arXiv 2410.14735), section on SVD-based mutation; the genome is ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.conditioning import (
    Grams,
    condition_by_inputs,
    condition_by_themselves,
)
from cycleqd_jax.merging.forms import DEFAULT_SETTINGS, DiagonalBasis, shapes_and_layout
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.merging.svd import TruncatedSVD, truncated_svd
from cycleqd_jax.merging.task_vectors import (
    Delta,
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
) -> DiagonalBasis:
    """The basis of a base model and its experts; slow, done once per set of experts.

    One task vector of one parameter is in memory at a time, beside the basis.

    Args:
      base_weights: name -> array, matrices `[out, in]`.
      experts: LoRA or full experts in archive order, see `iterate_task_vectors`. Their
        arrays may be read from disk on access; each is accessed once.
      settings: conditioning, rank, and what is done with the components beyond it.
      expert_names: K names; "0", "1", ... by default.
      layers: Gram matrices of the linear layers' inputs, for conditioning "regmean";
        see `condition_by_inputs`.

    Returns:
      The basis. Computed in float64 on the host, stored in float32.

    Raises:
      BadInputError: an expert does not fit the base (see `iterate_task_vectors`), no
        expert differs from it, a task vector is beyond the range of float32, or a sum
        of Gram matrices is singular.
    """
    names = tuple(str(k) for k in range(len(experts)))
    names = names if expert_names is None else tuple(expert_names)
    task_vectors = iterate_task_vectors(base_weights, experts, names)
    if settings.conditioning == "regmean":
        task_vectors = condition_by_inputs(task_vectors, layers, settings)
    elif settings.conditioning == "data_free":
        task_vectors = condition_by_themselves(task_vectors, settings)
    return build_basis(task_vectors, names, settings)


def build_basis(
    task_vectors: Iterable[ParameterDeltas],
    expert_names: Sequence[str],
    settings: BasisSettings = DEFAULT_SETTINGS,
) -> DiagonalBasis:
    """The basis of given task vectors; the second half of `compute_basis`.

    Args:
      task_vectors: one entry per parameter, from `iterate_task_vectors` or a step after
        it. Parameters that no expert changes are left out of the basis.
      expert_names: K names.
      settings: see `compute_basis`.

    Raises:
      BadInputError: no expert differs from the base.
    """

    def cut(delta: Delta | None) -> TruncatedSVD | None:
        keep_rest = settings.residual == "keep"
        if delta is None:
            return None
        return truncated_svd(delta, settings.rank, keep_rest=keep_rest)

    blocks, deltas = [], {}
    for row in task_vectors:
        # `map` drops each task vector before the next one is computed.
        parts = list(map(cut if row.is_matrix else _to_float32, row.deltas))
        if all(part is None for part in parts):
            continue
        if row.is_matrix:
            blocks.append(_join(row, parts))
        else:
            zero = np.zeros(row.shape, np.float32)
            dense = [zero if part is None else part for part in parts]
            deltas[row.name] = jnp.asarray(np.stack(dense))
    blocks.sort(key=lambda block: block.name)
    if not blocks and not deltas:
        raise BadInputError(
            "experts: none of them differs from the base model, so there is nothing "
            "to merge; check the expert folders."
        )
    owners = [np.repeat(np.arange(b.s.shape[0]), b.s.shape[1]) for b in blocks]
    num_experts = len(expert_names)
    shapes = shapes_and_layout(
        {b.name: (b.u.shape[0], b.v.shape[0]) for b in blocks}
        | {name: array.shape[1:] for name, array in deltas.items()},
        {b.name: b.s.shape[1] for b in blocks},
        [b.name for b in blocks if b.residual is not None],
        expert_names,
    )
    return shapes.replace(
        u={b.name: b.u for b in blocks},
        v={b.name: b.v for b in blocks},
        singular_values=_concatenate([b.s.ravel() for b in blocks], np.float32),
        experts_of=_concatenate(owners, np.int32),
        deltas=dict(sorted(deltas.items())),
        residuals={b.name: b.residual for b in blocks if b.residual is not None},
        energy=_stack([b.energy for b in blocks], num_experts),
        energy_kept=_stack([b.kept for b in blocks], num_experts),
        similarity=_mean_cosines([b.values for b in blocks], num_experts),
    )


class _MatrixBlock(NamedTuple):
    """All experts' shares of a matrix."""

    name: str
    u: jax.Array  # [out, R] float32
    v: jax.Array  # [in, R] float32
    s: np.ndarray  # [K, r] float64
    energy: np.ndarray  # [K] float64
    kept: np.ndarray  # [K] float64
    values: np.ndarray  # [K, own rank] float64, all singular values
    residual: jax.Array | None  # [K, out, in] float32; None where nothing is left


def _join(row: ParameterDeltas, parts: Sequence[TruncatedSVD | None]) -> _MatrixBlock:
    """Puts the experts' components side by side, padded to the largest rank."""
    (rows, columns), num_experts = row.shape, len(parts)
    there = [(k, part) for k, part in enumerate(parts) if part is not None]
    width = max(part.u.shape[1] for _, part in there)
    u = np.zeros((rows, num_experts * width), np.float32)
    v = np.zeros((columns, num_experts * width), np.float32)
    s = np.zeros((num_experts, width))
    energy, kept = np.zeros(num_experts), np.ones(num_experts)
    values = np.zeros((num_experts, max(part.values.size for _, part in there)))
    residual = None
    for k, part in there:
        keep, first = part.u.shape[1], k * width
        u[:, first : first + keep] = part.u
        v[:, first : first + keep] = part.v
        s[k, :keep] = part.values[:keep]
        values[k, : part.values.size] = part.values
        energy[k] = np.sum(part.values**2)
        if keep < part.values.size and energy[k] > 0:
            kept[k] = np.sum(part.values[:keep] ** 2) / energy[k]
        if part.rest is not None:
            if residual is None:
                residual = np.zeros((num_experts, rows, columns), np.float32)
            residual[k] = part.rest
    return _MatrixBlock(
        row.name,
        jnp.asarray(u),
        jnp.asarray(v),
        s,
        energy,
        kept,
        values,
        None if residual is None else jnp.asarray(residual),
    )


def _to_float32(delta: Delta | None) -> np.ndarray | None:
    return None if delta is None else delta.dense().astype(np.float32)


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
