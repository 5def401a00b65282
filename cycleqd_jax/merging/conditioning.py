"""Conditioning: makes each task vector act on its own skill's inputs only.

A task vector also fires on the inputs of other skills, which is what a plain sum of
task vectors suffers from. Conditioning multiplies the task vector of expert q, on its
input side, by a matrix made of all skills' inputs. Per linear layer, with task vectors
`[out, in]` and the Gram matrix `G_q` (`[in, in]`, mean of `x x^T` over the tokens of
skill q),

    tau_q' = tau_q (G_q + d/K I) (sum_k G_k + d I)^-1,  d = ridge * mean diagonal of sum

The sum of all `tau_q'` is the RegMean merge; here its parts are kept apart, so that
every later step works on them unchanged. A LoRA keeps its rank: only `A` changes.
`data_free` takes `G_q = tau_q^T tau_q / |tau_q|^2`, and so needs no data. Without ridge
the sum of its `tau_q'` is the minimum of WUDI's loss,
`sum_q |(tau - tau_q) tau_q^T|^2 / |tau_q|^2`, which its authors approach by iteration.

Sources: RegMean, Jin et al. (arXiv 2212.09849); the loss of WUDI-Merging, Cheng et al.
(arXiv 2503.08099), whose closed form is ours.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.device_delta import DeviceDelta
from cycleqd_jax.merging.settings import BasisSettings
from cycleqd_jax.merging.task_vectors import (
    Delta,
    DenseDelta,
    FactoredDelta,
    ParameterDeltas,
)
from cycleqd_jax.models.base import EMBEDDING

Grams = Sequence[Any]  # one `[in, in]` matrix per expert, on the host or a device
_ROWS = 8192  # of a large matrix that are conditioned in one step


def condition_by_inputs(
    rows: Iterable[ParameterDeltas],
    layers: Iterable[Mapping[str, Grams]],
    settings: BasisSettings,
) -> Iterator[ParameterDeltas]:
    """Conditions matrices by the inputs that they see; `regmean`.

    Args:
      rows: all parameters, from `iterate_task_vectors`.
      layers: weight name -> Gram matrices, for some weights at a time, so that those of
        one decoder layer are in memory. Matrices without an entry (embeddings) and
        parameters of one dimension stay as they are.
      settings: `conditioning_ridge` and `conditioning_shrinkage`.

    Yields:
      All parameters, those of `layers` first and in their order. A row must be used
      before the next one is taken.

    Raises:
      BadInputError: a sum of Gram matrices is singular; raised when a row is used.
    """
    waiting = {row.name: row for row in rows}
    for grams_of in layers:
        for name, grams in grams_of.items():
            if name in waiting:
                take = functools.partial(_given, grams)
                yield _conditioned(waiting.pop(name), take, settings)
    yield from waiting.values()


def condition_by_themselves(
    rows: Iterable[ParameterDeltas], settings: BasisSettings
) -> Iterator[ParameterDeltas]:
    """Conditions matrices by the task vectors themselves; `data_free`.

    The embedding stays as it is: its rows are looked up, so it has no input to act on.
    So do kernels: of transposed convolutions the columns are no inputs.
    Args, Yields and Raises as for `condition_by_inputs`.
    """
    for row in rows:
        if row.is_matrix and not row.is_kernel and row.name != EMBEDDING:
            row = _conditioned(row, functools.partial(_own_grams, row), settings)
        yield row


def _conditioned(
    row: ParameterDeltas, grams: Callable[[], Grams], settings: BasisSettings
) -> ParameterDeltas:
    return row._replace(deltas=_Conditioned(row, grams, settings))


@dataclasses.dataclass(frozen=True)
class _Conditioned(Iterable):
    """The conditioned task vectors of one matrix; each is computed when used."""

    row: ParameterDeltas
    grams: Callable[[], Grams]
    settings: BasisSettings

    def __iter__(self) -> Iterator[Delta | None]:
        factors = None
        for q, delta in enumerate(self.row.deltas):
            if delta is None:
                yield None
                continue
            if factors is None:
                factors = _InputFactors(self.row.name, self.grams(), self.settings)
            if isinstance(delta, FactoredDelta):
                yield FactoredDelta(b=delta.b, a=factors.right(delta.a, q))
            elif isinstance(delta, DeviceDelta):
                rows = np.empty(delta.array.shape, np.float32)
                for i in range(0, len(rows), _ROWS):
                    some = np.asarray(delta.array[i : i + _ROWS], np.float64)
                    rows[i : i + _ROWS] = factors.right(some, q)
                yield DeviceDelta(jnp.asarray(rows))
            else:
                yield DenseDelta(factors.right(delta.array, q))


class _InputFactors:
    """Multiplies by `F_q = (G_q + d/K I) (sum_k G_k + d I)^-1`, without making it.

    Raises:
      BadInputError: the sum is singular.
    """

    def __init__(self, name: str, grams: Grams, settings: BasisSettings):
        # In float64 there is one of these matrices at a time, beside their sum.
        self._gram = functools.partial(_shrunk, settings=settings)
        self._grams = grams
        total = self._gram(grams[0])
        for gram in grams[1:]:
            total += self._gram(gram)
        self._ridge = settings.conditioning_ridge * np.trace(total) / len(total)
        self._share = self._ridge / len(grams)
        total[np.diag_indices_from(total)] += self._ridge
        # Rounding may let a singular matrix be factored, so its condition is estimated.
        norm, size = np.linalg.norm(total, 1), len(total)
        factor, info = scipy.linalg.lapack.dpotrf(total, lower=True)
        del total
        rcond = 0.0
        if info == 0:
            rcond, _ = scipy.linalg.lapack.dpocon(factor, norm, uplo="L")
        if not rcond > size * np.finfo(np.float64).eps:
            raise BadInputError(
                f"basis.conditioning: the Gram matrices of {name} have a singular sum, "
                f"and basis.conditioning_ridge is {settings.conditioning_ridge:g}; set "
                "it to 0.01, or take more basis.conditioning_problems."
            )
        self._factor = factor

    def right(self, left: np.ndarray, q: int) -> np.ndarray:
        """`left @ F_q`, float64 `[n, in]`."""
        product = left @ self._gram(self._grams[q]) + self._share * left
        return scipy.linalg.cho_solve((self._factor, True), product.T).T


def _shrunk(gram: Any, settings: BasisSettings) -> np.ndarray:
    """A float64 copy whose off-diagonal entries are scaled."""
    full = np.array(gram, np.float64)
    diagonal = np.diag(full).copy()
    full *= settings.conditioning_shrinkage
    np.fill_diagonal(full, diagonal)
    return full


def _given(grams: Grams) -> Grams:
    return grams


def _own_grams(row: ParameterDeltas) -> Grams:
    return [_own_gram(delta, row.shape[1]) for delta in row.deltas]


def _own_gram(delta: Delta | None, size: int) -> np.ndarray:
    """`tau^T tau / |tau|^2`, float64 `[in, in]`; zero where there is no task vector."""
    if delta is None:
        return np.zeros((size, size))
    if isinstance(delta, FactoredDelta):
        gram = delta.a.T @ (delta.b.T @ delta.b) @ delta.a
    elif isinstance(delta, DeviceDelta):
        product = _gram_of_columns(delta.array)
        gram = np.asarray(product, np.float64)
    else:
        gram = delta.array.T @ delta.array
    return gram / np.trace(gram)


@jax.jit
def _gram_of_columns(array: jax.Array) -> jax.Array:
    return jnp.matmul(array.T, array, precision=jax.lax.Precision.HIGHEST)
