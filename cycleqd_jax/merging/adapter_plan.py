"""The LoRA adapter nearest to an individual, and what it leaves out.

    lost = ||(W - W_base) - scale B A||^2 summed over all parameters,
    as a share of ||W - W_base||^2 (squared Frobenius norms, float64)

It compares weights, so it is right for every kind of individual.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cycleqd_jax.models.base import EMBEDDING
from cycleqd_jax.models.formats.peft import LoraFactor
from cycleqd_jax.models.formats.peft_config import is_table

# A rest below this share of the norm of the summed terms is float32 rounding, four
# units of 2**-24.
_ROUNDING = 2.0**-22


@dataclasses.dataclass(frozen=True)
class AdapterPlan:
    """An adapter that could be written.

    Attributes:
      factors: by name of the matrices that an adapter can change.
      change: squared Frobenius norm of the whole change against the base.
      lost: the part that the adapter leaves out, by parameter; only parameters where it
        is more than float32 rounding.
      tied_embeddings: whether the embedding is also the head.
      fixed: matrices of the basis that no adapter can change: kernels and tables.
    """

    factors: Mapping[str, LoraFactor]
    change: float
    lost: Mapping[str, float]
    tied_embeddings: bool
    fixed: frozenset[str] = frozenset()

    @property
    def lost_share(self) -> float:
        """Share of the change's energy that the adapter leaves out, 0-1."""
        return sum(self.lost.values()) / (self.change or 1.0)

    @property
    def rank(self) -> int:
        """The largest rank of its factors, which a server must make room for."""
        return max(factor.b.shape[1] for factor in self.factors.values())

    @property
    def is_exact(self) -> bool:
        """True if base and adapter together are exactly the individual."""
        return not self.lost

    def describe_loss(self) -> str:
        """The part that is left out, in words, like "12 % of the change (...)"."""
        kinds: dict[str, float] = {}
        for name, energy in self.lost.items():
            kind = self._kind(name)
            kinds[kind] = kinds.get(kind, 0.0) + energy
        parts = [
            f"{percent(energy / (self.change or 1.0))} {kind}"
            for kind, energy in kinds.items()
        ]
        reasons = "; ".join(parts) if len(parts) > 1 else ", ".join(kinds)
        return f"{percent(self.lost_share)} of the change ({reasons})"

    def _kind(self, name: str) -> str:
        if name == EMBEDDING and self.tied_embeddings:
            return "in the embedding, which is also the head"
        if name in self.fixed:
            return "in kernels and tables, which it cannot change"
        if name.endswith(("norm.weight", ".bias")):
            return "in norms and biases, which it cannot change"
        return "in matrices, beyond their low rank"


def plan_adapter(
    base: Mapping[str, Any],
    weights: Mapping[str, Any],
    factors: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    tied_embeddings: bool,
    max_rank: int | None = None,
) -> AdapterPlan:
    """Measures what an adapter would leave out, one parameter at a time.

    Args:
      base: the base model's weights by name, float32 or of fewer bits.
      weights: the individual's, float32; an entry that is the same object as in `base`
        is unchanged.
      factors: `(b [out, R], a [R, in])` by matrix; `b @ a` is its change or a part.
      tied_embeddings: whether the embedding is also the output head; adapters that
        change both are not written, so the embedding's change counts as lost.
      max_rank: factors of a higher rank are replaced by the nearest ones of this rank;
        what that loses counts as lost. None keeps them.

    Returns:
      The plan. Components that are zero, such as those of experts that the genome does
      not use, are dropped from the factors.
    """
    fixed = frozenset(
        name
        for name in factors
        if len(weights[name].shape) != 2
        or not name.endswith(".weight")
        or is_table(name.removesuffix(".weight"))
    )
    kept = {
        name: _cut_rank(_trim_rank(np.asarray(b), np.asarray(a)), max_rank)
        for name, (b, a) in factors.items()
        if not (tied_embeddings and name == EMBEDDING) and name not in fixed
    }
    change, lost = 0.0, {}
    for name in sorted(weights):
        if weights[name] is base[name] and name not in kept:
            continue
        old = np.asarray(base[name]).astype(np.float64)
        new = np.asarray(weights[name]).astype(np.float64)
        terms = _energy(old) + _energy(new)
        rest = new - old
        change += _energy(rest)
        if name in kept:
            b, a, scale = kept[name]
            rest -= scale * (b.astype(np.float64) @ a.astype(np.float64))
            terms += scale**2 * _energy(b) * _energy(a)
        if (left := _energy(rest)) > _ROUNDING**2 * terms:
            lost[name] = left
    return AdapterPlan(kept, change, lost, tied_embeddings, fixed)


def percent(share: float) -> str:
    """A share in percent, with two significant digits."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def _trim_rank(b: np.ndarray, a: np.ndarray) -> LoraFactor:
    """Drops zero components, and those beyond the matrix's smaller dimension."""
    used = np.any(b, axis=0) & np.any(a, axis=1)
    used[0] |= not used.any()  # PEFT has no rank 0: keep one zero component
    b, a = b[:, used], a[used]
    out, rank = b.shape
    if rank <= min(out, a.shape[1]):
        return LoraFactor(b, a, 1.0)
    product = (b.astype(np.float64) @ a.astype(np.float64)).astype(np.float32)
    if out <= a.shape[1]:
        return LoraFactor(np.eye(out, dtype=np.float32), product, 1.0)
    return LoraFactor(product, np.eye(a.shape[1], dtype=np.float32), 1.0)


def _cut_rank(factor: LoraFactor, rank: int | None) -> LoraFactor:
    """The factors of the nearest matrix of a rank: its truncated SVD, float64."""
    if rank is None or factor.b.shape[1] <= rank:
        return factor
    left, upper = np.linalg.qr(factor.b.astype(np.float64))
    right, lower = np.linalg.qr(factor.a.T.astype(np.float64))
    u, s, vt = np.linalg.svd(upper @ lower.T)
    root = np.sqrt(s[:rank])
    b, a = left @ (u[:, :rank] * root), (root[:, None] * vt[:rank]) @ right.T
    return LoraFactor(b.astype(np.float32), a.astype(np.float32), factor.scale)


def _energy(array: np.ndarray) -> float:
    flat = array.reshape(-1).astype(np.float64, copy=False)
    return float(flat @ flat)
