"""Task vectors: what an expert adds to the base model, one parameter at a time.

`tau = theta_expert - theta_base`. A LoRA expert's task vector stays in its two factors;
a fully fine-tuned expert's is a dense difference. Both kinds may be mixed. Arrays are
read when their task vector is computed, so experts whose arrays are read from disk on
access need memory for one array at a time. A step that changes task vectors before the
basis is computed (conditioning) maps over `iterate_task_vectors`.

Small matrices are subtracted and decomposed on the host in float64, large ones on the
accelerator in float32 (`device_delta.py`).

Source: Ilharco et al., "Editing models with task arithmetic" (arXiv 2212.04089).
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.device_delta import DeviceDelta, subtract_on_device
from cycleqd_jax.merging.expert_checks import (
    check_parameters,
    check_shape,
    check_size,
    checked_names,
)
from cycleqd_jax.models.base import matrix_shape
from cycleqd_jax.models.validated import cast, check_finite

Weights = Mapping[str, Any]  # parameter name -> array, on the host or a device


@dataclasses.dataclass(frozen=True)
class FactoredDelta:
    """A matrix task vector `b @ a`.

    Attributes:
      b: float64 `[out, r]`; the adapter's scale is already multiplied in.
      a: float64 `[r, in]`.
    """

    b: np.ndarray
    a: np.ndarray

    def dense(self) -> np.ndarray:
        """The product, float64 `[out, in]`."""
        return self.b @ self.a


@dataclasses.dataclass(frozen=True)
class DenseDelta:
    """A task vector as one array.

    Attributes:
      array: float64, shaped like the parameter.
    """

    array: np.ndarray

    def dense(self) -> np.ndarray:
        """The array itself."""
        return self.array


Delta = FactoredDelta | DenseDelta | DeviceDelta


class ParameterDeltas(NamedTuple):
    """All experts' task vectors of one parameter.

    Attributes:
      name: the parameter's name.
      shape: its shape; two dimensions are `[out, in]`. That of a kernel is its
        `matrix_shape`.
      deltas: one per expert, of that shape, None where the expert does not change the
        parameter. Each iteration computes them anew, one at a time.
      is_kernel: whether the parameter has more dimensions than `shape`.
    """

    name: str
    shape: tuple[int, ...]
    deltas: Iterable[Delta | None]
    is_kernel: bool = False

    @property
    def is_matrix(self) -> bool:
        """True if the parameter has singular vectors (two dimensions)."""
        return len(self.shape) == 2


class _Deltas(Iterable):
    """The task vectors of one parameter; each is computed when it is its turn."""

    def __init__(
        self,
        base_weights: Weights,
        experts: Sequence[tuple[str, Any]],
        name: str,
        shape: tuple[int, ...],
        is_large: bool,
    ):
        self._base_weights = base_weights
        self._experts = experts
        self._name = name
        self._shape = shape
        self._is_large = is_large

    def __iter__(self) -> Iterator[Delta | None]:
        base = _ReadOnce(self._base_weights)
        for expert_name, expert in self._experts:
            delta = task_vector(
                base, expert, self._name, expert_name, on_device=self._is_large
            )
            if isinstance(delta, DenseDelta | DeviceDelta):
                flat = delta.array.reshape(self._shape)
                delta = dataclasses.replace(delta, array=flat)
            yield delta


class _ReadOnce(dict):
    """Arrays of the base, which may be read from disk, kept after their first use."""

    def __init__(self, weights: Weights):
        super().__init__()
        self._weights = weights

    def __missing__(self, name: str) -> np.ndarray:
        self[name] = np.asarray(self._weights[name])
        return self[name]

    def outline(self, name: str) -> tuple[tuple[int, ...], str]:
        """See `StoredWeights.outline`."""
        return shape_of(self._weights, name), ""


def iterate_task_vectors(
    base_weights: Weights,
    experts: Sequence[Any],
    expert_names: Sequence[str] | None = None,
    host_below: float = math.inf,
) -> Iterator[ParameterDeltas]:
    """Yields the task vectors of every parameter that an expert has.

    Args:
      base_weights: name -> array; matrices are `[out, in]`. Tied embeddings are one
        entry and so one task vector.
      experts: in archive order, `LoraExpert`s (`factors`: name -> `b [out, r]`,
        `a [r, in]`, `scale`; `replacements`: name -> array that replaces the base's)
        and `FullExpert`s (`weights`: name -> array).
      expert_names: names for messages; "0", "1", ... by default.
      host_below: dense task vectors of matrices whose sides are both at least this long
        are `DeviceDelta`s.

    Yields:
      Parameters in sorted order of their names. Where some are large, those of one
      shape come together.

    Raises:
      BadInputError: an expert has a parameter that the base lacks, or of another shape,
        or a value that is not finite or too large; or a full expert lacks a parameter.
    """
    named = list(zip(checked_names(experts, expert_names), experts, strict=True))
    found: set[str] = set()
    for expert_name, expert in named:
        factors, weights = getattr(expert, "factors", None), whole_weights(expert)
        check_parameters(base_weights, factors, weights, expert_name)
        found |= {*(factors or ()), *weights}
    whole = {name: shape_of(base_weights, name) for name in sorted(found)}
    shapes = {name: matrix_shape(shape) or shape for name, shape in whole.items()}
    large = {n for n, s in shapes.items() if len(s) == 2 and min(s) >= host_below}
    for name in sorted(found, key=lambda n: (shapes[n] if n in large else (), n)):
        deltas = _Deltas(base_weights, named, name, shapes[name], name in large)
        is_kernel = shapes[name] != whole[name]
        yield ParameterDeltas(name, shapes[name], deltas, is_kernel)


def shape_of(weights: Weights, name: str) -> tuple[int, ...]:
    """The shape of one array; one that lies in a file is not read for it."""
    outline = getattr(weights, "outline", None)
    return tuple(np.shape(weights[name]) if outline is None else outline(name)[0])


def task_vector(
    base_weights: Weights,
    expert: Any,
    name: str,
    expert_name: str = "expert",
    *,
    on_device: bool = False,
) -> Delta | None:
    """One expert's task vector of one parameter; None where it changes nothing.

    Args:
      base_weights: name -> array.
      expert: see `iterate_task_vectors`.
      name: a key of `base_weights`.
      expert_name: for messages.
      on_device: whether a dense task vector is subtracted on the accelerator.

    Raises:
      BadInputError: shapes differ, or a value is not finite or too large.
    """
    shape = shape_of(base_weights, name)
    factor = (getattr(expert, "factors", None) or {}).get(name)
    weights = whole_weights(expert)
    if factor is not None and name in weights:
        raise BadInputError(
            f"{expert_name}: {name} has both LoRA factors and replaced weights; "
            "keep one of them."
        )
    if factor is not None:
        return _lora_delta(shape, factor, name, expert_name)
    if name not in weights:
        return None
    after = np.asarray(weights[name])  # once, as it may be read from disk
    before = np.asarray(base_weights[name])
    check_shape(after.shape, shape, name, expert_name)
    check_finite(after, f"{expert_name}: {name}")
    check_finite(before, f"base model: {name}")
    cast(after, before.dtype, f"{expert_name}: {name}")  # it is run in that dtype
    if on_device:
        return _large_delta(after, before, name, expert_name)
    delta = after.astype(np.float64) - before.astype(np.float64)
    check_size(np.linalg.norm(delta), name, expert_name)
    return DenseDelta(delta) if np.any(delta) else None


class ExpertWeights(Mapping):
    """An expert's own weights, as it was trained; computed one by one on access.

    name -> array in the base's dtype, on the host. Parameters that the expert does not
    change are the base's own arrays.
    """

    def __init__(self, base_weights: Weights, expert: Any):
        """Takes name -> array of the base, and an expert (`iterate_task_vectors`)."""
        self._base_weights = base_weights
        self._expert = expert

    def __getitem__(self, name: str) -> np.ndarray:
        base = np.asarray(self._base_weights[name])
        whole = whole_weights(self._expert)
        if name in whole:
            return cast(np.asarray(whole[name]), base.dtype, f"expert: {name}")
        delta = task_vector(self._base_weights, self._expert, name)
        if delta is None:
            return base
        tuned = base.astype(np.float64) + delta.dense()
        return cast(tuned, base.dtype, f"expert: {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._base_weights)

    def __len__(self) -> int:
        return len(self._base_weights)


def whole_weights(expert: Any) -> Weights:
    """The arrays that replace the base's: a full expert's, or a LoRA's replacements."""
    full = getattr(expert, "weights", None)
    return (getattr(expert, "replacements", None) or {}) if full is None else full


def _lora_delta(
    shape: tuple[int, ...], factor: Any, name: str, expert_name: str
) -> FactoredDelta | None:
    b = np.asarray(factor.b, np.float64)
    a = np.asarray(factor.a, np.float64)
    if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0]:
        raise BadInputError(
            f"{expert_name}: the LoRA factors of {name} should be B [out, r] and "
            f"A [r, in], but B is {list(b.shape)} and A is {list(a.shape)}; the "
            "adapter file is damaged."
        )
    check_shape((b.shape[0], a.shape[1]), shape, name, expert_name)
    check_finite(b, f"{expert_name}: factor B of {name}")
    check_finite(a, f"{expert_name}: factor A of {name}")
    scale = float(factor.scale)
    if scale == 0.0 or not np.any(b) or not np.any(a):
        return None
    with np.errstate(over="ignore"):
        b = scale * b
        check_size(np.linalg.norm(b) * np.linalg.norm(a), name, expert_name)
    return FactoredDelta(b=b, a=a)


def _large_delta(
    after: np.ndarray, before: np.ndarray, name: str, expert_name: str
) -> DeviceDelta | None:
    delta, norm = subtract_on_device(after, before)
    check_size(norm, name, expert_name)
    return delta
